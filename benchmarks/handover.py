"""What it costs to time a plugin in a process of its own (`attnbench run --untrusted`).

The empty hand-over, which is subtracted from every sample: median and 90th percentile, for one call and for eight, on
idle cores and with a busy loop on each. Then a plugin in pairs, trusted and untrusted in turns: the ratio of the
medians of each pair. Half a minute on two cores. Exit status 1 where a median is over what is asked for.
Usage: handover.py [PAIRS]
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from attnbench import plugins
from attnbench.backend import Base
from attnbench.case import Case
from attnbench.machine.host import cache_bytes, cpus_allowed
from attnbench.settings import Checks, Timing
from attnbench.untrusted.handover import HandOver, alone
from attnbench.untrusted.process import Candidate, Setup
from attnbench.untrusted.session import Session
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

# Medians that are asked for, in microseconds, of one call to a hand-over.
MOST_IDLE_US, MOST_BUSY_US = 15.0, 50.0
HAND_OVERS, WARM_UP = 1000, 100
CALLS = (1, 8)
SMALL = Case.make(batch=1, seqlen=64, num_heads=4, head_dim=64, dtype="bf16")
CASES = (
    Case.make(batch=1, seqlen=256, num_heads=4, head_dim=64, dtype="fp32"),
    Case.make(batch=1, seqlen=1024, num_heads=4, head_dim=64, dtype="bf16", causal=True),
)
PAIRS = 5
PLUGIN = """
import torch

def sdpa(q, k, v, *, causal, softmax_scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(q, k, v, is_causal=causal, scale=softmax_scale).transpose(1, 2)
"""


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(f"load average {os.getloadavg()[0]:.2f} on {len(cpus_allowed())} CPUs")
    candidate = Candidate(None, Setup(0))
    candidate.start()
    idle_us = empty("idle cores", candidate)
    with busy():
        busy_us = empty("a busy loop on each", candidate)
    candidate.end()
    in_pairs(pairs)
    return 1 if idle_us > MOST_IDLE_US or busy_us > MOST_BUSY_US else 0


def empty(where: str, candidate: Candidate) -> float:
    """The median in microseconds of an empty hand-over of one call."""
    medians = []
    hand_over = HandOver(candidate, SMALL, torch.bfloat16)
    hand_over.claim(max(CALLS))
    ready = hand_over.ready_output(True)
    for calls in CALLS:
        with alone():
            taken = [1e6 * hand_over.take([ready] * calls)[1] for _ in range(WARM_UP + HAND_OVERS)][WARM_UP:]
        median, high = statistics.median(taken), statistics.quantiles(taken, n=10)[-1]
        print(f"empty hand-over of {calls}, {where}: median {median:.1f} us, 90th percentile {high:.1f} us")
        medians.append(median)
    return medians[0]


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A process on each CPU that computes for as long as the block runs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in cpus_allowed()]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def in_pairs(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plugin.py"
        path.write_text(PLUGIN)
        spec = f"{path}:sdpa"
        trusted = plugins.load([spec])["sdpa"]
        session = Session([spec], "cpu", 0)
        try:
            for case in CASES:
                ratios, taken = [], []
                for _ in range(pairs):
                    both = [time_of(case, backend) for backend in (trusted, session.given["sdpa"])]
                    ratios.append(both[1] / both[0])
                    taken.append(both)
                times = [1e6 * statistics.median(side) for side in zip(*taken)]
                print(
                    f"{case.key}: trusted {times[0]:.1f} us, untrusted {times[1]:.1f} us, ratio of medians in pairs "
                    f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                )
        finally:
            session.end()


def time_of(case: Case, backend: Base) -> float:
    """Median seconds of a call."""
    checks, timing = Checks(repeats=0, probes=()), Timing(min_time_s=0.5, max_time_s=1.0)
    record = run_trial(Problem(case, "cpu", checks, timing, cache_bytes() or 0, Phases()), backend, True)
    if record.measurement is None:
        sys.exit(f"{case.key} was not timed: {record.status} {record.reason}")
    return statistics.median(record.measurement.samples_s)


if __name__ == "__main__":
    sys.exit(main())
