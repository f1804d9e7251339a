"""What a worker is doing, and how long each phase takes. Apart from the rest, since a worker starts with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Whoever watches hears of calls that are made over and over at least so often, and seldom enough not to disturb them.
ALIVE_EVERY_S = 5.0


@dataclass
class Phases:
    """Seconds spent per phase, and a word to whoever watches when a phase begins: of which backend, and which.

    backend: whom the phases that begin next are about. alive_every_s: how often `alive` says a word, at most.
    """

    announce: Callable[[str, str], None] = lambda backend, phase: None
    backend: str = ""
    spent_s: dict[str, float] = field(default_factory=dict)
    alive_every_s: float = ALIVE_EVERY_S
    _open: list[str] = field(default_factory=list)
    _told_s: float = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """A phase may lie inside another: its time is then its own, and the other is announced again at its end."""
        self._open.append(phase)
        self.again()
        started = time.perf_counter()
        try:
            yield
        finally:
            spent_s = time.perf_counter() - started
            self._open.pop()
            self.spent_s[phase] = self.spent_s.get(phase, 0.0) + spent_s
            if self._open:
                self.spent_s[self._open[-1]] = self.spent_s.get(self._open[-1], 0.0) - spent_s
                self.again()

    def spent(self, phase: str, seconds: float) -> None:
        """Of the phase that is going on, so long was spent on another one, too short a time to announce it."""
        self.spent_s[phase] = self.spent_s.get(phase, 0.0) + seconds
        if self._open:
            self.spent_s[self._open[-1]] = self.spent_s.get(self._open[-1], 0.0) - seconds

    def again(self) -> None:
        """Announces the phase that is going on: a call is about to begin, and the one before it has returned."""
        if self._open:
            self._told_s = time.perf_counter()
            self.announce(self.backend, self._open[-1])

    def alive(self) -> None:
        """As `again`, for calls of which there may be millions."""
        if time.perf_counter() - self._told_s > self.alive_every_s:
            self.again()
