"""The CPU timer on calls of known length, the timers' names, and the flush. CUDA timers: on a GPU only."""

import itertools
import time

import pytest
import torch

from attnbench.backend import Outputs
from attnbench.timers import (
    CPU_RESOLUTION_S,
    EVENT_RESOLUTION_S,
    FLUSH_BYTES,
    GRAPH_CALLS,
    CpuTimer,
    EventTimer,
    GraphTimer,
    make_flush,
    make_timer,
)


def spinning(length_s, name="out"):
    """A call that keeps the processor busy for at least so long; sleeping would measure the scheduler."""

    def call():
        until = time.perf_counter() + length_s
        while time.perf_counter() < until:
            pass
        return Outputs(name)

    return call


def test_a_call_of_known_length_takes_that_long():
    samples = CpuTimer().take(itertools.cycle([spinning(2e-3)]), 20, 1, None)
    assert len(samples) == 20
    assert min(samples) >= 2e-3
    assert min(samples) < 3e-3  # the fastest of 20: the others may have been interrupted


def test_a_sample_is_the_mean_of_its_calls():
    calls = itertools.cycle([spinning(1e-3), spinning(3e-3)])
    samples = CpuTimer().take(calls, 5, 4, None)
    assert min(samples) >= 2e-3 and min(samples) < 3e-3


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["events", "graph"])
def test_gpu_timers_time_a_kernel_of_known_length(name):
    """Spins for 2 M and 4 M cycles: the difference is the GPU's own, whatever the launch costs."""
    medians = []
    for cycles in (2_000_000, 4_000_000):

        def call(cycles=cycles):
            torch.cuda._sleep(cycles)
            return Outputs(torch.zeros(1, device="cuda"))

        timer = make_timer(name, "cuda", 1)
        samples = timer.take(itertools.cycle([call]), 5, timer.region(1e-3), None)
        medians.append(sorted(samples)[2])
        assert timer.last().out.is_cuda
    assert 1.5 < medians[1] / medians[0] < 2.5
    assert 0.5e-3 < medians[0] < 4e-3
