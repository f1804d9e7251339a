"""Gates between real runs of equal code, on a quiet and on an overloaded machine: how many call it slower?

Makes RUNS runs of a tiny CPU suite without and RUNS with a made load (made_load.py), then draws GATES gates of each
kind: STORED runs at random are the baseline, another one is NEW, as it is or with every sample 10 % longer. Each goes
through what `attnbench gate` decides with. Limits, at every margin: equal code ends with status 1 in at most 1 % of the
gates, whichever of the two sides was measured under the load; 10 % is found on the quiet machine in at least 80 %
(5 stored runs), and no verdict under the load is "same" at a margin below 10 %. Exit status 1 where one is missed.
Usage: busy_machine.py [--runs N] [--gates N] [--keep DIR] [--load PROCESSES]; --keep reuses the runs that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from made_load import made_load

from attnbench.compare.baseline import Side
from attnbench.compare.comparison import compare
from attnbench.compare.gate import REGRESSED, judge_gate
from attnbench.compare.margin import Margin
from attnbench.compare.verdict import SAME
from attnbench.records.record import Record
from attnbench.records.store import Run, is_run, read

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
name: busy
defaults: {dtype: bf16, causal: false, batch: 1, num_heads: 2, head_dim: 64}
groups: [{name: small, axes: {seqlen: [128, 256, 512]}}]
timing: {min_samples: 40, min_time_s: 0.05, max_time_s: 1, warmup_s: 0.05}
"""
RUNS, GATES, STORED = 16, 400, (3, 5)
MARGINS = (0.01, 0.05, 0.20)
EFFECT = 0.10
MOST_FALSE, LEAST_FOUND = 0.01, 0.80
# More work than this for each CPU, before anything is measured: the machine is not quiet, and its share says nothing.
QUIET_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of the gates drawn: how many ended with status 1, and the verdicts of their cases."""

    regressed: float
    kinds: Counter[str]


def make_runs(folder: Path, count: int, load: int | None, seed: int) -> list[Run]:
    """`count` runs in `folder`, those that are there included, all under the load."""
    suite = folder / "suite.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    suite.write_text(SUITE)
    paths = [folder / str(place) for place in range(count)]
    missing = [path for path in paths if not is_run(path)]
    with made_load(seed, load) if missing else contextlib.nullcontext():
        for path in missing:
            command = [sys.executable, "-m", "attnbench", "run", str(suite), "--backend", "naive", "--device", "cpu"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run([*command, "--out", str(path)], env=environment, text=True, capture_output=True)
            if done.returncode not in (0, 3):  # 3: a case that the load kept from being timed
                sys.exit(f"{path}: run ended with status {done.returncode}: {done.stderr}")
    return [read(path) for path in paths]


def longer(run: Run, factor: float) -> Run:
    """The run with every sample `factor` times as long."""
    return replace(run, records=tuple(_longer(record, factor) for record in run.records))


def _longer(record: Record, factor: float) -> Record:
    if record.measurement is None:
        return record
    blocks = tuple(
        replace(block, samples_s=tuple(factor * sample for sample in block.samples_s))
        for block in record.measurement.blocks
    )
    return replace(record, measurement=replace(record.measurement, blocks=blocks))


def gates(base: Sequence[Run], new: Sequence[Run], count: int, stored: int, margin: float, factor: float) -> Drawn:
    """`count` gates of one of `new` against `stored` others of `base`."""
    dice, regressed, kinds = random.Random(f"{stored} {margin} {factor}"), 0, Counter[str]()
    for _ in range(count):
        fresh = dice.choice(new)
        sides = dice.sample([run for run in base if run is not fresh], stored)
        comparison = compare(
            Side(Path("base"), tuple(sides)), Side(Path("new"), (longer(fresh, factor),)), Margin(margin)
        )
        regressed += judge_gate(comparison, strict=False).status == REGRESSED
        kinds.update(cell.verdict.kind for cell in comparison.cells if cell.verdict is not None)
    return Drawn(regressed / count, kinds)


def equal_code(quiet: Sequence[Run], busy: Sequence[Run], count: int) -> int:
    """How many limits were missed."""
    failed = 0
    for words, base, new in (
        ("quiet", quiet, quiet),
        ("overloaded", busy, busy),
        ("baseline quiet, NEW overloaded", quiet, busy),
        ("baseline overloaded, NEW quiet", busy, quiet),
    ):
        for stored in STORED:
            for margin in MARGINS:
                drawn = gates(base, new, count, stored, margin, 1.0)
                told = f"{drawn.regressed:.1%} end with 1 (at most {MOST_FALSE:.0%})"
                print(f"equal code, {words}, {stored} stored runs, margin {margin:.0%}: {told}; {_listed(drawn)}")
                failed += drawn.regressed > MOST_FALSE
    return failed


def slower_code(quiet: Sequence[Run], busy: Sequence[Run], count: int) -> int:
    """How many limits were missed."""
    failed = 0
    for stored in STORED:
        for margin in (margin for margin in MARGINS if margin < EFFECT):
            drawn = gates(quiet, quiet, count, stored, margin, 1 + EFFECT)
            wanted = f" (at least {LEAST_FOUND:.0%})" if stored == max(STORED) and margin == min(MARGINS) else ""
            what = f"{EFFECT:.0%} slower, {{}}, {stored} stored runs, margin {margin:.0%}"
            print(f"{what.format('quiet')}: found in {drawn.regressed:.1%}{wanted}; {_listed(drawn)}")
            failed += bool(wanted) and drawn.regressed < LEAST_FOUND
            drawn = gates(busy, busy, count, stored, margin, 1 + EFFECT)
            told = f"{drawn.kinds[SAME]} called the same (none)"
            print(f"{what.format('overloaded')}: found in {drawn.regressed:.1%}, {told}; {_listed(drawn)}")
            failed += drawn.kinds[SAME] > 0
    return failed


def _listed(drawn: Drawn) -> str:
    return ", ".join(f"{times} {kind}" for kind, times in drawn.kinds.most_common())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=RUNS, help="runs made of each kind")
    arguments.add_argument("--gates", type=int, default=GATES)
    arguments.add_argument("--keep", type=Path, help="where the runs are left, and taken from")
    arguments.add_argument("--load", type=int, help="processes of the load (default: two a CPU)")
    asked = arguments.parse_args()
    if asked.runs <= max(STORED):
        arguments.error(f"--runs {asked.runs}: a gate takes {max(STORED)} stored runs and another one")
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
        quiet = make_runs(folder / "quiet", asked.runs, 0, 0)
        busy = make_runs(folder / "busy", asked.runs, asked.load, 1)
        failed = equal_code(quiet, busy, asked.gates) + slower_code(quiet, busy, asked.gates)
    noisy = f"; NOT QUIET before it: {load:.2f} of load a CPU, which spoils the quiet part" if load > QUIET_LOAD else ""
    print(f"{asked.gates} gates of each kind between {asked.runs} runs of each; {failed} limits missed{noisy}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
