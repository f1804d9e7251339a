"""A stand-in for the timing side of `torch.cuda`: one stream on a clock that moves only when something takes time.

The host pays for every launch; the stream runs what was launched in order, as soon as it is free. Install with
`FakeCuda().install(monkeypatch)`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import SimpleNamespace

EVENT_LAUNCH_S = 1e-6
GRAPH_LAUNCH_S = 30e-6
CYCLES_PER_S = 1.7e9


class FakeCuda:
    def __init__(self) -> None:
        self.host_s, self.stream_s, self.launches, self.spins_s = 100.0, 0.0, 0, []
        self.cycles_per_s = CYCLES_PER_S
        self.captured_s: list[float] | None = None  # lengths of what is launched while a graph is captured

    def install(self, monkeypatch) -> FakeCuda:
        import torch

        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing=False: _Event(self))
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "_sleep", self.spin, raising=False)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(self))
        monkeypatch.setattr(torch.cuda, "graph", self.capture)
        stream = SimpleNamespace(wait_stream=lambda other: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
        monkeypatch.setattr(time, "perf_counter", lambda: self.host_s)
        return self

    def launch(self, length_s: float, launch_s: float) -> float:
        """Puts work on the stream; the time when it will be done."""
        self.host_s += launch_s
        if self.captured_s is not None:
            self.captured_s.append(length_s)
            return self.stream_s
        self.launches += 1
        self.stream_s = max(self.stream_s, self.host_s) + length_s
        return self.stream_s

    def spin(self, cycles: int) -> None:
        self.spins_s.append(cycles / self.cycles_per_s)
        self.launch(cycles / self.cycles_per_s, 5e-6)

    @contextlib.contextmanager
    def capture(self, graph: _Graph):
        self.captured_s = graph.lengths_s
        yield
        self.captured_s = None

    def synchronize(self) -> None:
        if self.captured_s is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.host_s = max(self.host_s, self.stream_s)

    def kernel(self, length_s: float, launch_s: float = 5e-6, waits: bool = False) -> Callable[[], str]:
        """An operation of one kernel; `waits`: it reads a result back, as `.item()` does."""

        def call():
            self.launch(length_s, launch_s)
            if waits:
                self.synchronize()
            return f"{length_s:g}"

        return call


class _Event:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self.time_s = cuda, None

    def record(self) -> None:
        self.time_s = self._cuda.launch(0.0, EVENT_LAUNCH_S)

    def synchronize(self) -> None:
        self._cuda.host_s = max(self._cuda.host_s, self.time_s)

    def query(self) -> bool:
        return self._cuda.host_s >= self.time_s

    def elapsed_time(self, later: _Event) -> float:
        assert self._cuda.host_s >= later.time_s, "elapsed_time of an event that has not happened"
        return (later.time_s - self.time_s) * 1e3


class _Graph:
    """What was captured runs without gaps; launching it costs the host GRAPH_LAUNCH_S."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self.lengths_s = cuda, []

    def replay(self) -> None:
        self._cuda.launch(sum(self.lengths_s), GRAPH_LAUNCH_S)
