"""Timers for the CPU and for CUDA, and the cache flush. Each is named in the record: numbers of two timers never mix."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Callable, Iterator, Sequence

from attnbench.backend import Call, Outputs
from attnbench.timing import region_calls

if TYPE_CHECKING:
    import torch

# CUDA events tick at about 0.5 us; perf_counter_ns at tens of nanoseconds, a call of it included.
EVENT_RESOLUTION_S = 0.5e-6
CPU_RESOLUTION_S = 0.1e-6
# A flush writes at least this much, and twice the cache.
FLUSH_BYTES = 256 * 2**20
# The GPU spins this long ahead of a batch, so that launches run ahead of it: cycles at about 2 GHz.
HEAD_START_CYCLES = 2_000_000
# Samples enqueued before the host waits for the GPU.
EVENT_BATCH = 64
# Calls in one captured graph, at least; a graph must hold every input set, or the cache is warm.
GRAPH_CALLS = 20


class CpuTimer:
    """perf_counter_ns around the calls."""

    name = "cpu"

    def __init__(self) -> None:
        self._last: Outputs | None = None

    def region(self, estimate_s: float) -> int:
        return region_calls(estimate_s, CPU_RESOLUTION_S)

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        samples = []
        for _ in range(count):
            turn = list(itertools.islice(calls, calls_per_sample))
            if before is not None:
                before()
            started = time.perf_counter_ns()
            for call in turn:
                outputs = call()
            samples.append((time.perf_counter_ns() - started) * 1e-9 / calls_per_sample)
        self._last = outputs
        return samples

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last


class EventTimer:
    """CUDA events around the calls, on the current stream, behind a spinning kernel that hides the launch cost."""

    name = "events"

    def __init__(self) -> None:
        self._last: Outputs | None = None

    def region(self, estimate_s: float) -> int:
        return region_calls(estimate_s, EVENT_RESOLUTION_S)

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        samples: list[float] = []
        while len(samples) < count:
            samples += self._batch(calls, min(EVENT_BATCH, count - len(samples)), calls_per_sample, before)
        return samples

    def _batch(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> list[float]:
        import torch

        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        torch.cuda.synchronize()
        torch.cuda._sleep(HEAD_START_CYCLES)
        for start, stop in pairs:
            if before is not None:
                before()
            start.record()
            for call in itertools.islice(calls, calls_per_sample):
                outputs = call()
            stop.record()
        torch.cuda.synchronize()
        self._last = outputs
        return [start.elapsed_time(stop) * 1e-3 / calls_per_sample for start, stop in pairs]

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last


class GraphTimer:
    """Replays of one CUDA graph that holds every input set at least once: no launch gaps, for launch-bound sizes.

    Raises RuntimeError where a call cannot be captured; another timer is never chosen in its place.
    """

    name = "graph"

    def __init__(self, input_sets: int) -> None:
        self._calls = max(1, -(-GRAPH_CALLS // input_sets)) * input_sets
        self._graph: torch.cuda.CUDAGraph | None = None
        self._last: Outputs | None = None

    def region(self, estimate_s: float) -> int:
        return self._calls

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        import torch

        if before is not None:
            raise RuntimeError("timer graph cannot flush the cache between calls; use regime sustained or timer events")
        if self._graph is None:
            self._capture(calls)
        samples = []
        for _ in range(count):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self._graph.replay()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop) * 1e-3 / self._calls)
        return samples

    def _capture(self, calls: Iterator[Call]) -> None:
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compile and allocate outside the capture
            for call in itertools.islice(calls, self._calls):
                call()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for call in itertools.islice(calls, self._calls):
                self._last = call()

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last


def make_timer(name: str, device: str, input_sets: int) -> CpuTimer | EventTimer | GraphTimer:
    """The timer of that name; "auto" is cpu on the CPU and events on CUDA. Raises ValueError for a wrong pair."""
    kind = device.split(":")[0]
    if name == "auto":
        name = "cpu" if kind == "cpu" else "events"
    if (name == "cpu") != (kind == "cpu"):
        raise ValueError(f"timer {name} does not work on device {device}")
    if name == "graph":
        return GraphTimer(input_sets)
    return CpuTimer() if name == "cpu" else EventTimer()


def make_flush(device: str, cache_bytes: int) -> Callable[[], None]:
    """A function that overwrites max(2 x cache, FLUSH_BYTES) on the device, on the current stream."""
    import torch

    buffer = torch.empty(max(2 * cache_bytes, FLUSH_BYTES), dtype=torch.uint8, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush
