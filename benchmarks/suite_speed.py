"""Seconds and memory to load and expand a suite of 100,000 cases, without torch: `python benchmarks/suite_speed.py`.

Target: 2 s on two ordinary cores, and under 150 MB for the process. Then how the processor time to load grows with the
length of an axis and with the number of excludes: the exponent between the shortest and the longest, 1 for linear.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable

from attnbench.suite.load import parse_suite

CASES = 100_000
TARGET_S = 2.0
TEXT = """
name: large
groups:
  - name: product
    axes:
      dtype: [fp16, bf16]
      causal: [false, true]
      head_dim: [32, 64, 96, 128, 256]
      seqlen_q: [{lengths}]
      seqlen_k: [512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, 128k, 256k]
    derive: {{batch: 256k / seqlen_k, num_heads: 3 * head_dim / 32}}
"""
GROWTH = (5_000, 10_000, 20_000, 40_000)
SEEDS = "groups: [{{name: g, axes: {{seed: [{seeds}], seqlen: 64, batch: 1, num_heads: 1, head_dim: 32}}{rest}}}]"
ROUNDS = 3


def long_axis(count: int) -> str:
    return SEEDS.format(seeds=", ".join(map(str, range(count))), rest="")


def many_excludes(count: int) -> str:
    excludes = ", ".join(f"{{when: {{seed: {seed}}}, reason: r}}" for seed in range(count))
    return SEEDS.format(seeds=", ".join(map(str, range(count + 1))), rest=f", exclude: [{excludes}]")


def load_s(text: str) -> float:
    """The fastest of a few."""
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        parse_suite(text, "grown.yaml")
        taken.append(time.process_time() - started)
    return min(taken)


def print_growth(what: str, make: Callable[[int], str]) -> None:
    seconds = [load_s(make(count)) for count in GROWTH]
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(GROWTH[-1] / GROWTH[0])
    told = ", ".join(f"{count:,}: {taken:.2f} s" for count, taken in zip(GROWTH, seconds))
    print(f"{what}: {told}; exponent {exponent:.2f}")


def main() -> None:
    started = time.perf_counter()
    suite = parse_suite(TEXT.format(lengths=", ".join(map(str, range(1, 501)))), "large.yaml")
    loaded_s = time.perf_counter() - started
    jobs = suite.jobs()
    total_s, cpu_s = time.perf_counter() - started, time.process_time()
    assert len(jobs) == CASES
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{CASES:,} cases: loaded and checked in {loaded_s:.2f} s, jobs after {total_s:.2f} s")
    print(f"target {TARGET_S:g} s; CPU time {cpu_s:.2f} s; peak memory {peak_mb:.0f} MB")
    print_growth("values of an axis", long_axis)
    print_growth("excludes", many_excludes)


if __name__ == "__main__":
    main()
