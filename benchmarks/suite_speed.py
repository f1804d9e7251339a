"""Seconds and memory to load and expand a suite of 100,000 cases, without torch: `python benchmarks/suite_speed.py`.

Target: 2 s on two ordinary cores, and under 150 MB for the process.
"""

from __future__ import annotations

import resource
import time

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


def main() -> None:
    started = time.perf_counter()
    from attnbench.suite.load import parse_suite

    suite = parse_suite(TEXT.format(lengths=", ".join(map(str, range(1, 501)))), "large.yaml")
    loaded_s = time.perf_counter() - started
    jobs = suite.jobs()
    total_s, cpu_s = time.perf_counter() - started, time.process_time()
    assert len(jobs) == CASES
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{CASES:,} cases: imported, loaded and expanded in {loaded_s:.2f} s, jobs after {total_s:.2f} s")
    print(f"target {TARGET_S:g} s; CPU time {cpu_s:.2f} s; peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
