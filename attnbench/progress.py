"""What a run shows while it goes on: a live bar on a terminal, one line a record elsewhere."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from attnbench.records.record import Record
from attnbench.units import show_time

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from attnbench.suite.suite import Job


def outcome_text(record: Record) -> str:
    """A few words on how a record came out."""
    if record.status == "ok":
        if record.measurement is None:
            return "right, not timed"
        return show_time(statistics.median(record.measurement.samples_s))
    kind = f" ({record.kind})" if record.kind else ""
    return f"{record.status}{kind}: {first_line(record.reason)}"


def first_line(text: str, most: int = 160) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= most else line[: most - 3] + "..."


class PlainProgress:
    """`[ 12/60] ok  bf16-... naive 1.23 ms, about 2 min left`: for logs and CI."""

    def begin(self, records: int, taken: int) -> None:
        self._total, self._done, self._taken, self._started = records, taken, taken, time.monotonic()
        if taken:
            rest = "nothing is left" if taken == records else "going on with the rest"
            print(f"{taken} of {records} records were taken before; {rest}")

    def phase(self, job: Job, backend: str, phase: str) -> None:
        pass

    def record(self, record: Record) -> None:
        self._done += 1
        mark = "ok" if record.status == "ok" else record.status
        left = ""
        if self._done < self._total:
            left = f"  [{show_left((self._total - self._done) * self._pace())} left]"
        place = f"[{self._done:{len(str(self._total))}}/{self._total}]"
        print(f"{place} {mark:11} {record.case_key}  {record.backend}  {outcome_text(record)}{left}", flush=True)

    def end(self) -> None:
        pass

    def _pace(self) -> float:
        return (time.monotonic() - self._started) / max(1, self._done - self._taken)


class BarProgress:
    """A rich bar: records done, time left, what is going on, failures so far; failures stay above it as lines."""

    def begin(self, records: int, taken: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar: RichProgress = Progress(*columns)
        self._bar.start()
        self._task = self._bar.add_task("starting", total=records, completed=taken)
        self._failures: Counter[str] = Counter()

    def phase(self, job: Job, backend: str, phase: str) -> None:
        self._tell(f"{backend}  {job.case.key}  {phase}")

    def _tell(self, text: str) -> None:
        failed = ", ".join(f"{count} {status}" for status, count in sorted(self._failures.items()))
        self._bar.update(self._task, description=text + (f"  [{failed}]" if failed else ""))

    def record(self, record: Record) -> None:
        self._bar.advance(self._task)
        if record.status in ("incorrect", "error"):
            self._failures[record.status] += 1
            self._tell(f"{record.backend}  {record.case_key}")
            self._bar.console.print(
                f"{record.backend}  {record.case_key}  {outcome_text(record)}", markup=False, highlight=False
            )

    def end(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()


def make_progress() -> PlainProgress | BarProgress:
    return BarProgress() if sys.stdout.isatty() else PlainProgress()


def show_left(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
