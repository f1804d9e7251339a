"""What `ab` shows while it goes on: a bar with the time left on a terminal, one line a pair of processes elsewhere."""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import TYPE_CHECKING

import click

from attnbench.cli.running.terminal import outcome_text, show_left
from attnbench.compare.differences import process_differences
from attnbench.compare.margin import signed
from attnbench.compare.text import medians_apart

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from attnbench.ab.measure import Task
    from attnbench.records.record import Record


class PairsShown:
    """A line a pair of base and head; on a terminal a bar over all pairs as well, base against itself included.

    pairs: how many are still to be measured; processes: of each case.
    """

    def __init__(self, pairs: int, processes: int):
        self._pairs, self._done, self._processes, self._started = pairs, 0, processes, time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stdout.isatty() and pairs:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Progress(*columns)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=pairs)

    def phase(self, backend: str, phase: str) -> None:
        if self._bar:
            self._bar.update(self._task, description=f"{backend}  {phase}")

    def compared(self, process: int, task: Task, base: Record, head: Record) -> None:
        """A pair of base and head is there."""
        self.measured()
        place = f"[{process + 1}/{self._processes}] {task.job.case.key}  {task.backend}"
        line = f"{place}  {pair_outcome(base, head)}"
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(f"{line}{self._left()}")

    def measured(self) -> None:
        """A pair is there, of whatever."""
        self._done += 1
        if self._bar:
            self._bar.advance(self._task)

    def end(self) -> None:
        if self._bar:
            self._bar.stop()

    def _left(self) -> str:
        left = self._pairs - self._done
        pace_s = (time.monotonic() - self._started) / self._done
        return f"  [{show_left(left * pace_s)} left]" if left > 0 else ""


def pair_outcome(base: Record, head: Record) -> str:
    """How both sides came out, and by how much they differ, round by round."""
    if not (base.measurement and head.measurement):
        return f"base {outcome_text(base)}; head {outcome_text(head)}"
    (difference,) = map(math.expm1, process_differences(base.measurement.blocks, head.measurement.blocks).values())
    times = [_median_s(one) for one in (base, head)]
    apart = medians_apart(times[0], times[1], difference)
    why = f" ({apart})" if apart else ""
    return f"base {outcome_text(base)}, head {outcome_text(head)}, in turns {signed(difference)}{why}"


def _median_s(record: Record) -> float:
    assert record.measurement is not None, "asked of timed records only"
    return statistics.median(record.measurement.samples_s)
