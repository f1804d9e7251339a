"""Timers on calls of known length: the CPU's on a fake counter and on busy calls, CUDA events on a fake stream, both
CUDA timers on a GPU where there is one; the timers' names, and the flush."""

import itertools
import time

import pytest
import torch
from fakes.cuda import FakeCuda

from attnbench.backend import Outputs
from attnbench.settings import Timing
from attnbench.timing import timers
from attnbench.timing.measure import Turns, measure
from attnbench.timing.sampling import Unwatched
from attnbench.timing.timers import (
    CPU_RESOLUTION_S,
    DETECTION_S,
    EVENT_BATCH,
    EVENT_BATCH_CALLS,
    EVENT_RESOLUTION_S,
    FLUSH_BYTES,
    GRAPH_CALLS,
    LAUNCH_SHOWN,
    MOST_HEAD_START_S,
    UNBLOCKED,
    CpuTimer,
    EventTimer,
    GraphTimer,
    make_flush,
    make_timer,
)


def spinning(length_s, name="out", noted=None):
    """A call that keeps the processor busy for at least so long, and notes how long it really was; sleeping would
    measure the scheduler."""

    def call():
        started = time.perf_counter_ns()
        while (spent_s := (time.perf_counter_ns() - started) * 1e-9) < length_s:
            pass
        if noted is not None:
            noted.append(spent_s)
        return Outputs(name)

    return call


class FakeCounter:
    """perf_counter_ns that moves only when told; reading it takes no time."""

    def __init__(self, monkeypatch):
        self.now_ns = 5_000_000_000
        monkeypatch.setattr(timers.time, "perf_counter_ns", lambda: self.now_ns)

    def call(self, length_ns, name="out"):
        def call():
            self.now_ns += length_ns
            return Outputs(name)

        return call


def test_a_sample_is_the_mean_of_its_calls(monkeypatch):
    counter = FakeCounter(monkeypatch)
    calls = itertools.cycle([counter.call(1_000_000), counter.call(3_000_000), counter.call(8_000_000)])
    samples = CpuTimer().take(calls, 4, 2, counter.call(500_000_000))
    assert samples == pytest.approx([2e-3, 4.5e-3, 5.5e-3, 2e-3])


def test_a_measurement_of_a_call_of_known_length_is_that_length(monkeypatch):
    """Everything real but the counter: warm-up, batching, stopping rule, blocks."""
    counter = FakeCounter(monkeypatch)
    clock = Unwatched().clock
    monkeypatch.setattr(clock, "now", lambda: counter.now_ns * 1e-9)
    for length_ns, calls_per_sample in ((50_000, 1), (2_000, 5)):
        options = Timing(min_samples=30, min_time_s=0.01, max_time_s=1.0, warmup_s=0.001)
        found = measure(Turns([counter.call(length_ns)]), options, CpuTimer(), clock)
        assert set(found.samples_s) == {length_ns / 1e9} and found.converged
        assert found.calls_per_sample == calls_per_sample
        (block,) = found.blocks
        assert block.duration_s == pytest.approx(block.sample_count * calls_per_sample * length_ns * 1e-9)


def test_a_busy_call_is_measured_as_long_as_it_was():
    """Against the call's own notes, so that a busy machine changes both: the timer adds microseconds, no more."""
    noted = []
    samples = CpuTimer().take(itertools.cycle([spinning(2e-3, noted=noted)]), 20, 1, None)
    assert len(samples) == 20
    added = sorted(sample - own for sample, own in zip(samples, noted, strict=True))
    assert added[0] >= 0 and added[10] < 50e-6
    assert min(samples) >= 2e-3


def test_what_runs_before_a_sample_is_not_timed_and_runs_once_each():
    done = []

    def before():
        done.append(None)
        time.sleep(0.02)

    samples = CpuTimer().take(itertools.cycle([spinning(1e-4)]), 5, 3, before)
    assert len(done) == 5
    assert min(samples) < 5e-3


def test_calls_take_turns_across_samples_and_the_last_outputs_are_kept():
    timer = CpuTimer()
    calls = itertools.cycle([spinning(0, "one"), spinning(0, "two"), spinning(0, "three")])
    timer.take(calls, 2, 2, None)
    assert timer.last().out == "one"  # the fourth call
    timer.take(calls, 1, 1, None)
    assert timer.last().out == "two"


def test_nothing_taken_means_nothing_to_show():
    for timer in (CpuTimer(), EventTimer(), GraphTimer(1)):
        with pytest.raises(AssertionError, match="before take"):
            timer.last()


def test_regions_are_long_against_the_resolution():
    assert CpuTimer().region(1.0) == 1 and EventTimer().region(1.0) == 1
    assert CpuTimer().region(CPU_RESOLUTION_S) == 100
    assert EventTimer().region(EVENT_RESOLUTION_S) == 100


@pytest.mark.parametrize("input_sets", [1, 3, 20, 21, 64])
def test_a_graph_holds_every_input_set_equally_often(input_sets):
    calls = GraphTimer(input_sets).region(1.0)
    assert calls >= max(GRAPH_CALLS, input_sets) and calls % input_sets == 0
    assert calls < max(GRAPH_CALLS, input_sets) + input_sets


def test_a_graph_cannot_flush():
    with pytest.raises(RuntimeError, match="cannot flush the cache between calls; use regime sustained or timer"):
        GraphTimer(1).take(iter([]), 1, 1, lambda: None)


@pytest.mark.parametrize(
    ("name", "device", "kind"),
    [
        ("auto", "cpu", CpuTimer),
        ("cpu", "cpu", CpuTimer),
        ("auto", "cuda:1", EventTimer),
        ("events", "cuda", EventTimer),
        ("graph", "cuda:0", GraphTimer),
    ],
)
def test_the_timer_of_a_name(name, device, kind):
    timer = make_timer(name, device, 2)
    assert type(timer) is kind
    assert timer.name == (name if name != "auto" else {CpuTimer: "cpu", EventTimer: "events"}[kind])


@pytest.mark.parametrize(("name", "device"), [("events", "cpu"), ("graph", "cpu"), ("cpu", "cuda:0")])
def test_a_timer_is_never_switched_quietly(name, device):
    with pytest.raises(ValueError, match=f"timer {name} does not work on device {device}"):
        make_timer(name, device, 1)


def test_a_flush_writes_twice_the_cache_at_least(monkeypatch):
    made = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **options: made.append(size) or real(64, **options).fill_(7))
    for cache_bytes, expected in ((0, FLUSH_BYTES), (FLUSH_BYTES, 2 * FLUSH_BYTES)):
        flush = make_flush("cpu", cache_bytes)
        assert made.pop() == expected
        buffer = next(cell.cell_contents for cell in flush.__closure__)
        flush()
        assert (buffer == 0).all()


def events(call, samples=20, calls_per_sample=1, cuda=None, before=None):
    timer = EventTimer()
    return timer.take(itertools.cycle([call]), samples, calls_per_sample, before), timer


@pytest.mark.parametrize("length_s", [2e-6, 20e-6, 3e-3])
@pytest.mark.parametrize("launch_s", [5e-6, 100e-6, 5e-3])
def test_launches_are_hidden_whatever_they_cost(monkeypatch, length_s, launch_s):
    cuda = FakeCuda().install(monkeypatch)
    samples, timer = events(cuda.kernel(length_s, launch_s), 200)
    assert samples == pytest.approx([length_s] * 200)
    assert timer.flags == () and timer.last() == f"{length_s:g}"


def test_a_clock_that_rises_after_the_calibration_shows_in_one_batch_alone(monkeypatch):
    """An idle card starts at 345 MHz; a spin of so many cycles is then five times shorter once the clock is up."""
    cuda = FakeCuda().install(monkeypatch)
    cuda.cycles_per_s = 345e6
    _, timer = events(cuda.kernel(20e-6, 200e-6), 1)
    cuda.cycles_per_s = 1.755e9
    taken = [timer.take(itertools.cycle([cuda.kernel(20e-6, 200e-6)]), 50, 1, None) for _ in range(2)]
    assert max(taken[0]) > 200e-6, "launches showed"
    assert taken[1] == pytest.approx([20e-6] * 50)


def test_without_the_spin_a_short_kernel_looks_as_long_as_its_launch(monkeypatch):
    """What the test above would see if nothing were hidden."""
    cuda = FakeCuda().install(monkeypatch)
    monkeypatch.setattr(cuda, "spin", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "_sleep", cuda.spin)
    monkeypatch.setattr(timers, "spin_rate", lambda: 1.7e9)
    monkeypatch.setattr(timers, "launch", lambda call, rate: (False, 1e-6))
    samples, _ = events(cuda.kernel(2e-6, 100e-6))
    assert min(samples) > 50e-6


def test_an_operation_that_synchronises_inside_runs_unblocked_and_is_flagged(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    samples, timer = events(cuda.kernel(30e-6, waits=True))
    assert timer.flags == (UNBLOCKED,)
    assert samples == pytest.approx([35e-6] * 20, rel=0.1)  # kernel and launch
    spins = len(cuda.spins_s)
    timer.take(itertools.cycle([cuda.kernel(30e-6, waits=True)]), 20, 1, None)
    assert len(cuda.spins_s) == spins  # none to wait for


def test_only_the_first_call_may_wait(monkeypatch):
    """A first call that compiles or allocates synchronises; later ones do not."""
    cuda = FakeCuda().install(monkeypatch)
    kernel, first = cuda.kernel(30e-6), [True]

    def call():
        if first:
            first.clear()
            cuda.synchronize()
        return kernel()

    samples, timer = events(call)
    assert timer.flags == () and samples == pytest.approx([30e-6] * 20)


def test_launches_too_slow_to_hide_are_said(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    _, timer = events(cuda.kernel(1e-6, 1e-3), 3, calls_per_sample=50)
    assert timer.flags == (LAUNCH_SHOWN,)
    assert max(cuda.spins_s) <= max(MOST_HEAD_START_S, DETECTION_S) + 1e-9


def test_a_flush_is_outside_the_sample_and_batches_fit_the_drivers_queue(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    samples, _ = events(cuda.kernel(60e-6), 10, before=cuda.kernel(500e-6))
    assert samples == pytest.approx([60e-6] * 10)
    queued = []
    synchronize = cuda.synchronize
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: (queued.append(cuda.launches), synchronize()))
    events(cuda.kernel(2e-6), 100, calls_per_sample=50)
    assert max(later - earlier for earlier, later in itertools.pairwise(queued)) <= EVENT_BATCH_CALLS + 2 * EVENT_BATCH


def test_a_graph_has_neither_launch_gaps_nor_its_own_launch_in_a_sample(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    timer = GraphTimer(3)
    calls = itertools.cycle([cuda.kernel(1e-6), cuda.kernel(2e-6), cuda.kernel(6e-6)])
    samples = timer.take(calls, 10, timer.region(3e-6), None)
    assert samples == pytest.approx([3e-6] * 10)  # every input set equally often, no matter that a launch takes 5 us
    assert timer.last() == "6e-06" and timer.flags == ()


def test_a_graph_of_an_operation_that_synchronises_is_refused(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    with pytest.raises(RuntimeError, match="when stream is capturing"):
        GraphTimer(1).take(itertools.cycle([cuda.kernel(1e-6, waits=True)]), 1, 20, None)


on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no NVIDIA GPU")]


def gpu_spin(cycles):
    def call():
        torch.cuda._sleep(cycles)
        return Outputs(torch.zeros(1, device="cuda"))

    return call


def timed_on_gpu(name, call, count=20):
    timer = make_timer(name, "cuda", 1)
    samples = timer.take(itertools.cycle([call]), count, timer.region(1e-3), None)
    assert timer.last().out.is_cuda and timer.flags == ()
    return sorted(samples)[count // 2]


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_a_gpu) for name in ("events", "graph")])
def test_gpu_timers_time_a_kernel_of_known_length(name):
    """Spins for 2 M and 4 M cycles: the difference is the GPU's own, whatever the launch costs."""
    medians = [timed_on_gpu(name, gpu_spin(cycles)) for cycles in (2_000_000, 4_000_000)]
    assert 1.9 < medians[1] / medians[0] < 2.1
    assert 0.5e-3 < medians[0] < 4e-3


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_a_gpu) for name in ("events", "graph")])
def test_gpu_timers_agree_with_tritons(name):
    """triton.testing.do_bench of the same spin (it flushes L2 first, which a spin does not notice), within 3 %."""
    testing = pytest.importorskip("triton.testing")
    call = gpu_spin(1_000_000)
    theirs_s = testing.do_bench(call, return_mode="median") * 1e-3
    assert timed_on_gpu(name, call, 60) == pytest.approx(theirs_s, rel=0.03)


@pytest.mark.parametrize("name", [pytest.param("events", marks=on_a_gpu)])
def test_a_gpu_operation_that_synchronises_is_found_out(name):
    def call():
        out = torch.ones(1024, device="cuda")
        return Outputs(out * out.sum().item())

    timer = make_timer(name, "cuda", 1)
    timer.take(itertools.cycle([call]), 5, 1, None)
    assert timer.flags == (UNBLOCKED,)
