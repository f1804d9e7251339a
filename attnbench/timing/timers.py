"""Timers for the CPU and for CUDA, and the cache flush. Each is named in the record: their numbers never mix."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from attnbench.backend import Call, Outputs
from attnbench.timing.measure import Turns, region_calls

if TYPE_CHECKING:
    import torch


# CUDA events tick at about 0.5 us; perf_counter_ns at tens of nanoseconds, a call of it included.
EVENT_RESOLUTION_S = 0.5e-6
CPU_RESOLUTION_S = 0.1e-6
# A flush writes at least this much, and twice the cache.
FLUSH_BYTES = 256 * 2**20
# The GPU spins at least this long ahead of a batch, so that launches run ahead of it; and at most so long, where
# launching takes longer than the work.
LEAST_HEAD_START_S, MOST_HEAD_START_S = 1e-3, 50e-3
# How much longer the spin is than launching a batch took the last time.
HEAD_START_MARGIN = 1.5
# An operation that returns while the GPU still spins this long did not wait for it.
DETECTION_S = 20e-3
CALIBRATION_CYCLES = 2_000_000
# Samples, and calls, enqueued before the host waits for the GPU; the driver's queue holds about a thousand launches.
EVENT_BATCH = 64
EVENT_BATCH_CALLS = 256
# Flags: the operation waits for the GPU inside (or keeps the host for DETECTION_S), so that nothing could be launched
# ahead; launching the calls of a single sample took longer than the longest spin hides.
UNBLOCKED = "unblocked"
LAUNCH_SHOWN = "launch_shown"
# Calls in one captured graph, at least; a graph must hold every input set, or the cache is warm.
GRAPH_CALLS = 20
# A graph launches in some tens of microseconds; this is about 0.2 ms.
GRAPH_SPIN_CYCLES = 400_000


def kept_by(calls: Iterator[Call]) -> Callable[[Outputs], None]:
    """Who wants to see what a timed call returned, at once."""
    return calls.keep if isinstance(calls, Turns) else lambda outputs: None


class CpuTimer:
    """perf_counter_ns around the calls. Of every batch, what one sample's last call returned is handed on at once, and
    what the last one's did; which one is drawn, so that no call knows beforehand that nobody will look.

    NOTE: the clock is looked up ahead of the calls, which may put another one into its place.
    """

    name = "cpu"
    flags = ()

    def __init__(self) -> None:
        self._last: Outputs | None = None

    def region(self, estimate_s: float) -> int:
        return region_calls(estimate_s, CPU_RESOLUTION_S)

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        samples = []
        now, keep, looked_at = time.perf_counter_ns, kept_by(calls), {secrets.randbelow(count), count - 1}
        for place in range(count):
            turn = list(itertools.islice(calls, calls_per_sample))
            if before is not None:
                before()
            started = now()
            for call in turn:
                outputs = call()
            ended = now()
            if place in looked_at:
                keep(outputs)
            samples.append((ended - started) * 1e-9 / calls_per_sample)
        self._last = outputs
        return samples

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last


class EventTimer:
    """CUDA events around the calls, on the current stream, behind a spinning kernel that hides the launch cost.

    The spin is as long as launching the batch before it took, and some more; it counts SM cycles, whose rate is that of
    the batch before it, since a card that was idle begins at a fraction of its clock. An operation that synchronises
    inside is found out at its first call; it runs without a spin, which it would only wait for, and is flagged: its
    time holds launch gaps.
    """

    name = "events"

    def __init__(self) -> None:
        self._last: Outputs | None = None
        self._cycles_per_s = 0.0  # of the spin; 0: not looked at yet
        self._launch_s = 0.0  # of one call, as the last batch showed
        self._flags: dict[str, None] = {}

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(self._flags)

    def region(self, estimate_s: float) -> int:
        return region_calls(estimate_s, EVENT_RESOLUTION_S)

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        if not self._cycles_per_s:
            self._cycles_per_s = spin_rate()
            waits, self._launch_s = launch(next(calls), self._cycles_per_s)
            if waits:
                self._flags[UNBLOCKED] = None
        samples: list[float] = []
        while len(samples) < count:
            batch = min(self._most(calls_per_sample), count - len(samples))
            samples += self._batch(calls, batch, calls_per_sample, before)
        return samples

    def _most(self, calls_per_sample: int) -> int:
        """Samples that may be launched before the host waits: what the queue holds and a spin hides."""
        hidden = int(MOST_HEAD_START_S / (HEAD_START_MARGIN * max(self._launch_s, 1e-9)))
        return max(1, min(EVENT_BATCH, EVENT_BATCH_CALLS // calls_per_sample, hidden // calls_per_sample))

    def _batch(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> list[float]:
        import torch

        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        spun, released = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        spun.record()
        cycles = self._spin(count * calls_per_sample)
        released.record()
        started = time.perf_counter()
        for start, stop in pairs:
            turn = list(itertools.islice(calls, calls_per_sample))  # which may launch work that is not to be timed
            if before is not None:
                before()
            start.record()
            for call in turn:
                outputs = call()
            stop.record()
        kept_by(calls)(outputs)  # a copy on the current stream: another one's work that nobody waits for shows
        self._launch_s = (time.perf_counter() - started) / (count * calls_per_sample)
        torch.cuda.synchronize()
        if cycles:
            self._cycles_per_s = cycles / (spun.elapsed_time(released) * 1e-3)
        self._last = outputs
        return [start.elapsed_time(stop) * 1e-3 / calls_per_sample for start, stop in pairs]

    def _spin(self, calls: int) -> int:
        """Keeps the GPU busy for as long as launching so many calls will take; for so many cycles."""
        import torch

        if UNBLOCKED in self._flags:
            return 0
        wanted_s = HEAD_START_MARGIN * self._launch_s * calls
        if wanted_s > MOST_HEAD_START_S:
            self._flags[LAUNCH_SHOWN] = None
        spin_s = min(MOST_HEAD_START_S, max(LEAST_HEAD_START_S, wanted_s))
        cycles = round(spin_s * self._cycles_per_s)
        torch.cuda._sleep(cycles)
        return cycles

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last


def spin_rate() -> float:
    """Cycles per second of the spinning kernel, at the clock of the moment."""
    import torch

    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(CALIBRATION_CYCLES)  # wakes the GPU
    start.record()
    torch.cuda._sleep(CALIBRATION_CYCLES)
    stop.record()
    torch.cuda.synchronize()
    spun_s: float = start.elapsed_time(stop) * 1e-3
    return CALIBRATION_CYCLES / spun_s


def launch(call: Call, cycles_per_s: float) -> tuple[bool, float]:
    """Whether a call, at its second time (the first may compile and allocate), waits for what the GPU did before it;
    and the seconds that it keeps the host."""
    import torch

    call()
    torch.cuda.synchronize()
    marker = torch.cuda.Event()
    torch.cuda._sleep(round(DETECTION_S * cycles_per_s))
    marker.record()
    started = time.perf_counter()
    call()
    launch_s = time.perf_counter() - started
    waited = marker.query()
    torch.cuda.synchronize()
    return waited, launch_s


class GraphTimer:
    """Replays of one CUDA graph that holds every input set at least once: no launch gaps, for launch-bound sizes.

    Each replay is launched behind a spin, or the graph's own launch would be in the sample.
    Raises RuntimeError where a call cannot be captured; another timer is never chosen in its place.
    """

    name = "graph"
    flags = ()

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
            self._graph = self._capture(calls)
        samples = []
        for _ in range(count):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            for _ in itertools.islice(calls, self._calls):
                pass  # whose turns they are: their inputs may change ahead of the replay
            torch.cuda._sleep(GRAPH_SPIN_CYCLES)
            start.record()
            self._graph.replay()
            stop.record()
            stop.synchronize()
            samples.append(start.elapsed_time(stop) * 1e-3 / self._calls)
        return samples

    def _capture(self, calls: Iterator[Call]) -> torch.cuda.CUDAGraph:
        import torch

        turn = list(itertools.islice(calls, self._calls))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compile and allocate outside the capture
            for call in turn:
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in turn:
                self._last = call()
        return graph

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
