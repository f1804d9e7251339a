"""What a worker is doing, and how long each phase takes. Apart from the rest, since a worker starts with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Seconds spent per phase, and a word to whoever watches when a phase begins: of which backend, and which.

    backend: whom the phases that begin next are about.
    """

    announce: Callable[[str, str], None] = lambda backend, phase: None
    backend: str = ""
    spent_s: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """A phase may lie inside another: its time is then its own, and the other is announced again at its end."""
        self._open.append(phase)
        self.announce(self.backend, phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent_s = time.perf_counter() - started
            self._open.pop()
            self.spent_s[phase] = self.spent_s.get(phase, 0.0) + spent_s
            if self._open:
                self.spent_s[self._open[-1]] = self.spent_s.get(self._open[-1], 0.0) - spent_s
                self.announce(self.backend, self._open[-1])
