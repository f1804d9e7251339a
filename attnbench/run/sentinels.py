"""Sentinels around a run: one before the first timed case, one whenever the last is old, one at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from attnbench.records.sentinels import END, PERIOD_S, PERIODIC, START
from attnbench.run.process import RunError


class Sentinels:
    """Takes sentinels with `take_sentinel` and hands each to `keep`. A run that times nothing has none.

    now, wall: a clock that runs on evenly and the system's; the seconds between them change when the latter is set.
    """

    def __init__(
        self,
        take_sentinel: Callable[[], dict[str, Any]],
        keep: Callable[[dict[str, Any]], None],
        spent_s: Counter[str],
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        self._take_sentinel, self._keep, self._spent_s, self._now, self._wall = take_sentinel, keep, spent_s, now, wall
        self._offset_s = wall() - now()
        self._last_s: float | None = None

    def look(self) -> None:
        """To be called ahead of every timed case. Raises RunError when no worker can start."""
        if self._last_s is None:
            self._take(START)
        elif self._now() - self._last_s >= PERIOD_S:
            self._take(PERIODIC)

    def close(self) -> None:
        """After the last case, where anything was timed."""
        if self._last_s is not None:
            self._take(END)

    def _take(self, role: str) -> None:
        started = self._now()
        try:
            figures = self._take_sentinel()
        except RunError as error:
            if role != END:
                raise
            figures = {"error": str(error)}
        self._last_s = self._now()
        self._spent_s["sentinels"] += self._last_s - started  # type: ignore[assignment]  # a Counter adds floats too
        step_s = round(self._wall() - self._last_s - self._offset_s, 3)
        self._keep({"role": role, **figures, "clock_step_s": step_s})
