"""What the stopping rule costs, against an earlier revision: `python benchmarks/stopping_rule.py [--rounds N]`.

Two tiny cases of `naive` in a suite without a timing section, run by the earlier revision (from a git worktree) and by
this one in turns, N rounds of both, the order changing from round to round. Target on a quiet machine: a quarter of the
wall time at most, with intervals of the median at most 1.2 times as wide. Ends with 1 where that is not reached.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attnbench.records.result import results
from attnbench.records.store import read

ROOT = Path(__file__).parents[1]
# Before the rule gave up what it could not reach, and before warm-up on a CPU took noise for noise.
EARLIER = "6331464"
SUITE = """
name: tiny
backends: [naive]
groups:
  - name: tiny
    axes: {batch: 1, num_heads: 2, seqlen: 128, head_dim: 64, causal: [false, true]}
"""
CASES = 2
TARGET_TIME, TARGET_WIDTH = 0.25, 1.2


@dataclass(frozen=True)
class Job:
    """One run of the suite: wall seconds of the command, and of each case the relative half-width and how it ended."""

    wall_s: float
    half_widths: tuple[float, ...]
    sampled_s: tuple[float, ...]
    converged: int

    def __str__(self) -> str:
        widths = ", ".join(f"+-{width:.2%}" for width in self.half_widths)
        sampled = ", ".join(f"{seconds:.1f}" for seconds in self.sampled_s)
        return f"{self.wall_s:5.1f} s, sampling {sampled} s, intervals {widths}, {self.converged} converged"


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(folder), revision], capture_output=True, text=True)
    if made.returncode:
        sys.exit(
            f"no worktree of {revision}: {made.stderr.strip()}; the whole history is needed (git fetch --unshallow)"
        )
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def run(source: Path, suite: Path, out: Path) -> Job:
    """The suite, run by the attnbench that lies in `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-P", "-m", "attnbench", "run", str(suite), "--device", "cpu", "--out", str(out)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=suite.parent)
    wall_s = time.monotonic() - started
    taken = results(read(out))
    measurements = [result.record.measurement for result in taken if result.record.measurement]
    assert len(measurements) == CASES, "every case is right and timed"
    return Job(
        wall_s,
        tuple(result.half_width or math.inf for result in taken),
        tuple(sum(block.duration_s for block in found.blocks) for found in measurements),
        sum(found.converged for found in measurements),
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=3, help="of one run each (default 3, about a minute each)")
    asked.add_argument("--earlier", default=EARLIER, help=f"the revision to hold against (default {EARLIER})")
    options = asked.parse_args()
    times, widths = [], []
    with tempfile.TemporaryDirectory() as name, worktree(options.earlier, Path(name) / "earlier") as earlier:
        suite = Path(name) / "tiny.yaml"
        suite.write_text(SUITE)
        for number in range(options.rounds):
            sides = [("earlier", earlier), ("now", ROOT)]
            jobs = {
                side: run(source, suite, Path(name) / f"{side}{number}")
                for side, source in (sides if number % 2 == 0 else reversed(sides))
            }
            for side, _ in sides:
                print(f"round {number + 1}, {side:7}: {jobs[side]}", flush=True)
            times.append(jobs["now"].wall_s / jobs["earlier"].wall_s)
            widths.append(geometric_mean([a / b for a, b in zip(jobs["now"].half_widths, jobs["earlier"].half_widths)]))
    time_ratio, width_ratio = geometric_mean(times), geometric_mean(widths)
    reached = time_ratio <= TARGET_TIME and width_ratio <= TARGET_WIDTH
    print(f"wall time {time_ratio:.2f} times that of {options.earlier} (target {TARGET_TIME:g}), "
          f"intervals {width_ratio:.2f} times as wide (target {TARGET_WIDTH:g})")  # fmt: skip
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
