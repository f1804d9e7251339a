"""What the changing signs of timed inputs cost: `python benchmarks/signs.py [--rounds N]`.

A backend is timed in turns with itself, once with input sets whose signs change from call to call and once with sets
that stay as they are: the ratio of their medians, round by round, and the share of the wall time that changing and
judging took. Target: within 1 %. Ends with 1 where a ratio's interval lies beyond that.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.compare.differences import round_differences
from attnbench.machine.facts import worker_facts
from attnbench.records.stats import interval
from attnbench.settings import Checks, Timing
from attnbench.timing.interleave import TimedArm
from attnbench.timing.measure import Turns
from attnbench.timing.rounds import orders
from attnbench.timing.sampling import Unwatched
from attnbench.worker.phases import Phases
from attnbench.worker.prepared import Checked, Prepared
from attnbench.worker.problem import Problem
from attnbench.worker.trial import check_trial

TARGET = 0.01
CASES = {
    "prefill, 512": dict(batch=1, num_heads=8, head_dim=64, seqlen=512, causal=True),
    "prefill, 2k": dict(batch=1, num_heads=4, head_dim=128, seqlen=2048),
    "decode, 8k keys": dict(batch=1, num_heads=16, num_heads_kv=4, head_dim=128, seqlen_q=1, seqlen_k=8192),
    "tiny": dict(batch=1, num_heads=2, head_dim=64, seqlen=64),
}
TIMING = Timing(min_samples=50, min_time_s=1.0, max_time_s=6.0)


def compared(backend: str, fields: Mapping[str, Any], rounds: int) -> tuple[float, float, float, float]:
    """(ratio with signs to without, its bounds, share of the time that signs took)."""
    case = Case.make(**fields, dtype="bf16")
    cache_bytes = int(worker_facts("cpu").get("cache_bytes") or 0)
    problem = Problem(case, "cpu", Checks(), TIMING, cache_bytes, Phases())
    checked = check_trial(problem, builtin()[backend])
    assert isinstance(checked, Checked), f"{backend} is right on {case.key}"
    changing, still = (Prepared(problem, checked, [checked.backend] * 2) for _ in range(2))
    watch = Unwatched()
    arms = [
        TimedArm(label, turns, TIMING, one.timer, watch, watch.clock)
        for label, turns, one in (("1", changing.turns, changing), ("2", Turns(still.calls), still))
    ]
    for arm in arms:
        arm.warm_up()
    before, started = problem.phases.spent_s.get("signs", 0.0), time.perf_counter()
    for number, order in zip(range(rounds), orders(len(arms), seed=0)):
        for place in order:
            arms[place].take(number, 1)
            if place == 0:
                changing.judge_last()
    spent_s = time.perf_counter() - started
    with_signs, without = (arm.measurement(("1", "2"), 0).blocks for arm in arms)
    logs = round_differences(without, with_signs)
    bounds = interval(logs, "round")
    share = (problem.phases.spent_s["signs"] - before) / spent_s
    return math.exp(statistics.median(logs)), math.exp(bounds.low_s), math.exp(bounds.high_s), share


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=60)
    options = asked.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    beyond = False
    for name, fields in CASES.items():
        for backend in ("cpu_flash", "naive"):
            ratio, low, high, share = compared(backend, fields, options.rounds)
            beyond |= low > 1 + TARGET or high < 1 - TARGET
            print(f"{name}, {backend}: {ratio - 1:+.2%} ({low - 1:+.2%} to {high - 1:+.2%}), "
                  f"signs took {share:.0%} of the time", flush=True)  # fmt: skip
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())
