"""A load on this machine's CPUs that comes and goes, for the benchmarks that ask what verdicts are worth under one.

Each process is busy and idle in turns, both for 0.1 to 20 s (log-uniform, by a seed): shorter than a measurement,
as long as one, and longer, as builds and tests of other people are.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SHORTEST_S, LONGEST_S = 0.1, 20.0
# Two for each CPU, half of them busy at a time: a machine with twice the work that it has CPUs, our own included.
PER_CPU = 2


@contextlib.contextmanager
def made_load(seed: int, processes: int | None = None) -> Iterator[None]:
    """The load, for as long as the block runs: PER_CPU processes a CPU, or so many as are asked for (0: none)."""
    count = PER_CPU * len(os.sched_getaffinity(0)) if processes is None else processes
    started = [
        subprocess.Popen([sys.executable, str(Path(__file__).resolve()), str(seed + place)]) for place in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def spin(seed: int) -> None:
    """Busy and idle in turns, until it is killed or its parent is gone."""
    dice, parent = random.Random(seed), os.getppid()
    while os.getppid() == parent:
        busy_s, idle_s = (SHORTEST_S * (LONGEST_S / SHORTEST_S) ** dice.random() for _ in range(2))
        until_s = time.monotonic() + busy_s
        while time.monotonic() < until_s and os.getppid() == parent:
            sum(range(10_000))
        time.sleep(idle_s)


if __name__ == "__main__":
    spin(int(sys.argv[1]))
