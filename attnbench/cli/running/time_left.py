"""How long a run still takes: what each backend's checks, probes and timings took so far, times what is left of each.

A case whose suite asks for all probes is checked more than thirty times, and is no more like one without than a timed
case is like one that is only checked: counted in records alone, the time left is wrong by as much.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbench.records.record import Record
    from attnbench.suite.suite import Job

# Phases of a record that belong to its timing; the rest is checking.
TIMING_PHASES = ("prepare", "time", "recheck")
CHECK, TIMING = "check", "timing"
# The records still to be made: each job with its backends.
Todo = Sequence[tuple["Job", Sequence[str]]]
# A backend's checks, or its timings.
Part = tuple[str, str]


class TimeLeft:
    """Told what begins and what is done; seconds left at any time. Units: calls that are checked, records timed."""

    def __init__(self, todo: Todo) -> None:
        self._units: dict[tuple[str, str], Counter[Part]] = {
            (job.case.key, name): Counter({(name, CHECK): 1 + len(job.checks.probes), (name, TIMING): int(job.time)})
            for job, names in todo
            for name in names
        }
        self._left: Counter[Part] = sum(self._units.values(), Counter())
        self._done: Counter[Part] = Counter()
        self._spent_s: Counter[Part] = Counter()
        self._part: Part = ("", CHECK)
        self._seen_s = time.monotonic()

    def phase(self, backend: str, phase: str) -> None:
        self._spend()
        self._part = (backend, TIMING if phase in TIMING_PHASES else CHECK)

    def record(self, record: Record) -> None:
        self._spend()
        units = self._units.pop((record.case_key, record.backend), Counter())
        self._left -= units
        self._done += units

    def _spend(self) -> None:
        now_s = time.monotonic()
        self._spent_s[self._part] += now_s - self._seen_s  # type: ignore[assignment]  # a Counter adds floats too
        self._seen_s = now_s

    def seconds(self) -> float | None:
        """None before the first record. What has been running since the last event counts as part of what is left."""
        if not self._done or not self._left:
            return None if self._left else 0.0
        left_s = sum(units * self._pace_s(part) for part, units in self._left.items())
        return max(0.0, left_s - (time.monotonic() - self._seen_s))

    def _pace_s(self, part: Part) -> float:
        """Seconds a unit: of the backend itself, or of all where it has done none; inputs and oracles, which belong to
        no backend, are spread over all checks."""
        _, kind = part
        shared_s = self._spent_s["", kind] / max(1, self._of(self._done, kind))
        if self._done[part]:
            return shared_s + self._spent_s[part] / self._done[part]
        return self._of(self._spent_s, kind) / max(1, self._of(self._done, kind))

    @staticmethod
    def _of(counts: Counter[Part], kind: str) -> float:
        return sum(number for (_, of), number in counts.items() if of == kind)
