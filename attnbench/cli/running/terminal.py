"""What a run shows while it goes on: a live bar on a terminal, one line a record elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from attnbench.cli.running.table import show_times
from attnbench.cli.running.time_left import TimeLeft, Todo
from attnbench.printable import printable
from attnbench.records.record import Record
from attnbench.screen import wrapped

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

    from attnbench.suite.suite import Job


Step = TypeVar("Step")
# Steps may take minutes: by rich's own 30 s it would never know their pace.
PACE_PERIOD_S = 3600.0


def outcome_text(record: Record) -> str:
    """A few words on how a record came out; of a failure the likely cause comes before its figures."""
    if record.status == "ok":
        if record.measurement is None:
            return "right, not timed"
        return show_times(record.measurement)
    from attnbench.report.causes import in_short

    kind = f" ({record.kind})" if record.kind else ""
    return f"{record.status}{kind}: {in_short(record.reason)}"


class PlainProgress:
    """`[ 12/60] ok  bf16-... naive 1.23 ms, about 2 min left`: for logs and CI; a line a record unless `COLUMNS` is
    set."""

    def begin(self, records: int, taken: int, todo: Todo = ()) -> None:
        self._total, self._done, self._left = records, taken, TimeLeft(todo)
        if taken:
            rest = "nothing is left" if taken == records else "going on with the rest"
            print(f"{taken} of {records} records were taken before; {rest}")

    def phase(self, job: Job, backend: str, phase: str) -> None:
        self._left.phase(backend, phase)

    def record(self, record: Record) -> None:
        self._done += 1
        self._left.record(record)
        mark = "ok" if record.status == "ok" else record.status
        left_s = self._left.seconds()
        left = f"  [{show_left(left_s)} left]" if left_s is not None and self._done < self._total else ""
        place = f"[{self._done:{len(str(self._total))}}/{self._total}]"
        line = f"{place} {mark:11} {record.case_key}  {record.backend}  {outcome_text(record)}{left}"
        print("\n".join(wrapped(line, "    ")), flush=True)

    def output(self, backend: str, text: str) -> None:
        for line in printable(text).splitlines():
            print(f"{backend or 'worker'} | {line}", flush=True)

    def end(self) -> None:
        pass


class BarProgress:
    """A rich bar: records done, time left, failures so far; below it what is going on. Failures stay above it as lines.

    No line is wider than the terminal, and no case key is broken.
    """

    def begin(self, records: int, taken: int, todo: Todo = ()) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
        from rich.text import Text

        left = TimeLeft(todo)

        class Left(ProgressColumn):
            def render(self, task: object) -> Text:
                seconds = left.seconds()
                return Text("" if seconds is None else f"{show_left(seconds)} left")

        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), Left(), TextColumn("{task.fields[failed]}"))
        self._left, self._failures = left, Counter[str]()
        self._bar: Progress = bar_with_line(*columns)
        self._bar.start()
        self._task = self._bar.add_task("starting", total=records, completed=taken, failed="")

    def phase(self, job: Job, backend: str, phase: str) -> None:
        self._left.phase(backend, phase)
        self._bar.update(self._task, description=f"{job.case.key}  {backend}  {phase}")

    def record(self, record: Record) -> None:
        self._left.record(record)
        self._bar.advance(self._task)
        if record.status in ("incorrect", "error"):
            self._failures[record.status] += 1
            failed = ", ".join(f"{count} {status}" for status, count in sorted(self._failures.items()))
            self._bar.update(self._task, failed=failed)
            self._bar.console.print(
                f"{record.case_key}  {record.backend}  {outcome_text(record)}", markup=False, highlight=False
            )

    def output(self, backend: str, text: str) -> None:
        if not hasattr(self, "_bar"):  # a worker that starts prints before there is anything to count
            PlainProgress().output(backend, text)
            return
        for line in printable(text).splitlines():
            self._bar.console.print(f"{backend or 'worker'} | {line}", markup=False, highlight=False)

    def end(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()


def bar_with_line(*columns: object) -> Progress:
    """A progress display whose tasks' descriptions stand below their bars, cut at the edge of the terminal."""
    from rich.progress import Progress
    from rich.text import Text

    class BarWithLine(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            yield from (Text(task.description, no_wrap=True, overflow="ellipsis") for task in self.tasks)

    return BarWithLine(*columns)  # type: ignore[arg-type]  # rich's columns


def watched(steps: Iterable[Step], total: int) -> Iterator[Step]:
    """The same steps; on a terminal with a bar of how many are done and how long the rest takes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    if not sys.stdout.isatty():
        yield from steps
        return
    with Progress(
        BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), transient=True,
        speed_estimate_period=PACE_PERIOD_S,
    ) as bar:  # fmt: skip
        yield from bar.track(steps, total=total)


def make_progress() -> PlainProgress | BarProgress:
    return BarProgress() if sys.stdout.isatty() else PlainProgress()


def show_left(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
