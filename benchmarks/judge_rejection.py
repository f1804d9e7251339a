"""How soon `attnbench judge` rejects a wrong kernel: the kernels of tests/reports/faults, each a fault that somebody
reported, on the suite `quick`, untimed: what is right in all of it is another suite's to reject.

    python benchmarks/judge_rejection.py [FAULT...]

Counted from when the worker has imported torch and the kernel until the last record. Exit status 1 where one takes over
5 s, which is meant for two idle cores.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attnbench.judge.judgement import Judgement
from attnbench.judge.question import Question
from attnbench.judge.runner import judge
from attnbench.records.record import Record
from attnbench.records.store import read
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import Job

FAULTS = Path(__file__).parents[1] / "tests" / "reports" / "faults"
# What the faults are written with.
SHARED = "attention"
LIMIT_S = 5.0
SUITE = "quick.yaml"


class Watch:
    """When the worker was ready, and when the run was over."""

    def __init__(self) -> None:
        self.begun_s = self.ended_s = 0.0

    def begin(self, records: int, taken: int, todo: Sequence[tuple[Job, Sequence[str]]]) -> None:
        self.begun_s = self.begun_s or time.monotonic()

    def phase(self, job: Job, backend: str, phase: str) -> None: ...

    def record(self, record: Record) -> None:
        self.ended_s = time.monotonic()

    def output(self, backend: str, text: str) -> None: ...

    def end(self) -> None: ...


def rejected(name: str, folder: Path) -> tuple[Judgement, float, int]:
    """The verdict on a fault, the seconds it took once all was imported, and how many cases were posed."""
    file = FAULTS / f"{name}.py"
    spec = f"{file}:{name}" if f"def {name}(" in file.read_text() else str(file)
    watch = Watch()
    question = Question(spec, str(folder / SUITE), trusted=True, device="cpu", out=folder / name, seed=0)
    told = judge(question, watch).judgement
    posed = len(read(told.run).records) if told.run else 0
    return told, watch.ended_s - watch.begun_s, posed


def main(names: Sequence[str]) -> int:
    names = names or sorted(path.stem for path in FAULTS.glob("*.py") if path.stem != SHARED)
    taken_s = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / SUITE).write_text(with_overrides(load_suite("quick"), time=False).to_yaml())
        for name in names:
            told, seconds, posed = rejected(name, folder)
            print(f"{name:28} {told.verdict:10} {seconds:5.1f} s, {posed} cases", flush=True)
            if told.verdict in ("incorrect", "error"):
                taken_s[name] = seconds
    late = [name for name, seconds in taken_s.items() if seconds > LIMIT_S]
    print(f"{len(taken_s)} of {len(names)} rejected; median {statistics.median(taken_s.values()):.1f} s, longest "
          f"{max(taken_s.values()):.1f} s; over {LIMIT_S:g} s: {', '.join(late) or 'none'}")  # fmt: skip
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
