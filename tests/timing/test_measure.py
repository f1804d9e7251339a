"""Timing with a fake timer, clock and stopping rule: every number follows from what the fakes were told."""

import itertools
import math

import pytest
from fakes.timing import COUNTED, OPTIONS, FakeClock, FakeRule, FakeTimer

from attnbench.backend import Outputs
from attnbench.records.measurement import KEPT_SAMPLES, Conditions
from attnbench.settings import Timing
from attnbench.timing.measure import (
    BURST_IDLE_S,
    BURST_WORK_S,
    SETTLE_S,
    WARMUP_CALLS,
    WARMUP_LIMIT,
    Turns,
    measure,
    region_calls,
    settle_s,
    warm_up,
)
from attnbench.timing.sampling import SystemClock, Unwatched, thin


def run(lengths, options=OPTIONS, calls=COUNTED, enough=20, flush=None, calls_per_region=1, alive=lambda: None):
    clock = FakeClock()
    timer, rule = FakeTimer(clock, lengths, calls_per_region), FakeRule(enough)
    return measure(Turns(calls, alive), options, timer, clock, rule, flush), timer, rule, clock


def warm(lengths, window_s=0.25):
    clock = FakeClock()
    timer = FakeTimer(clock, lengths)
    return warm_up(itertools.cycle(COUNTED), timer, clock, window_s), timer


def test_warm_up_ends_when_two_windows_agree():
    found, timer = warm(itertools.repeat(0.01))
    assert timer.takes == [(WARMUP_CALLS, 1), (25, 1), (25, 1)]
    assert found.estimate_s == 0.01
    assert found.spent_s == pytest.approx(WARMUP_CALLS * 0.01 + 2 * 0.25)


def test_warm_up_goes_on_while_the_clock_settles():
    lengths = [0.02] * 5 + [0.015] * 13 + [0.012] * 17 + [0.01] * 100
    found, timer = warm(lengths)
    assert [count for count, _ in timer.takes] == [5, 13, 17, 21, 25]
    assert found.estimate_s == 0.01


def test_warm_up_gives_up_after_its_limit():
    wandering = (0.01 * (1 + 0.1 * (index // 25 % 2)) for index in itertools.count())
    found, timer = warm(wandering)
    assert found.spent_s == pytest.approx(WARMUP_LIMIT * 0.25, abs=0.3)
    assert 10 <= len(timer.takes) <= 16


def test_long_calls_are_warmed_up_by_five_calls_only():
    found, timer = warm(itertools.repeat(4.0))
    assert timer.takes == [(WARMUP_CALLS, 1)]
    assert (found.estimate_s, found.spent_s) == (4.0, 20.0)


def test_without_a_window_five_calls_are_all():
    assert warm(itertools.repeat(0.01), window_s=0.0)[1].takes == [(WARMUP_CALLS, 1)]


def test_short_calls_are_warmed_up_for_whole_windows():
    clock = FakeClock()
    timer = FakeTimer(clock, itertools.repeat(1e-6), calls_per_region=50)
    found = warm_up(itertools.cycle(COUNTED), timer, clock, 0.25)
    assert timer.takes[1:] == [(5000, 50), (5000, 50)]
    assert found.spent_s == pytest.approx(0.5, rel=1e-3)


class ClockWatch(Unwatched):
    """Tells one SM clock after the other, a window each."""

    def __init__(self, *clocks_mhz):
        self.clocks_mhz = iter(clocks_mhz)

    def between(self, start_s, end_s):
        return Conditions(sm_clock_mhz=next(self.clocks_mhz))


def windows(settle=0.0, watch=None):
    clock = FakeClock()
    timer = FakeTimer(clock, itertools.repeat(0.01))
    warm_up(itertools.cycle(COUNTED), timer, clock, 0.25, settle, watch)
    return len(timer.takes) - 1, clock.time_s - 1000.0


def test_a_gpu_is_kept_busy_until_it_has_settled():
    assert windows() == (2, pytest.approx(0.55))
    count, spent_s = windows(settle=1.0)
    assert count == 4 and 1.0 <= spent_s < 1.0 + 0.25


def test_warm_up_waits_for_the_clock_too():
    assert windows(watch=ClockWatch(1980, 1900, 1830, 1800, 1795, 1795))[0] == 5  # 1795 / 1800 agrees within 1 %
    assert windows(watch=ClockWatch(None, None))[0] == 2
    limit = windows(watch=ClockWatch(*itertools.islice(itertools.cycle((1900, 1200)), 100)))[1]
    assert limit == pytest.approx(WARMUP_LIMIT * 0.25, abs=0.3)


@pytest.mark.parametrize(
    ("regime", "set_to", "name", "expected"),
    [
        ("sustained", None, "events", SETTLE_S),
        ("sustained", None, "graph", SETTLE_S),
        ("sustained", None, "cpu", 0.0),
        ("sustained", 0.2, "cpu", 0.2),
        ("sustained", 0.0, "events", 0.0),
        ("burst", 5.0, "events", 0.0),
    ],
)
def test_how_long_a_machine_settles(regime, set_to, name, expected):
    timer = FakeTimer(FakeClock(), ())
    timer.name = name
    assert settle_s(Timing(regime=regime, settle_s=set_to), timer) == expected


def test_a_measurement_holds_what_was_taken_and_nothing_of_the_warm_up():
    warming = [0.02] * 5 + [0.01] * (13 + 25)  # five calls, then two windows, the first one sized by guess
    lengths = itertools.chain(warming, (0.01 + i * 1e-6 for i in range(99)))
    found, _, rule, clock = run(lengths)
    assert rule.seen == [0.01 + i * 1e-6 for i in range(len(rule.seen))]
    assert list(found.samples_s) == [round(sample, 10) for sample in rule.seen]  # nine significant digits
    assert found.blocks[0].sample_count == len(rule.seen) == 20
    assert found.blocks[0].start_s == pytest.approx(1000.0 + sum(warming))
    assert found.warmup_s == pytest.approx(sum(warming))
    assert (found.timer, found.regime, found.cache) == ("fake", "sustained", "cold")
    assert (found.converged, found.unmet, found.input_sets, found.calls_per_sample) == (True, (), 3, 1)
    assert clock.slept == []


def test_samples_are_regions_of_several_calls_in_turn():
    found, timer, rule, _ = run(itertools.repeat(0.001), calls_per_region=7)
    assert timer.estimate_s == pytest.approx(0.001)
    assert found.calls_per_sample == 7 and rule.calls_per_sample == {7}
    total = sum(count * calls for count, calls in timer.takes)
    assert timer.last().out == COUNTED[(total - 1) % 3]().out


def test_time_runs_out_and_what_was_not_met_is_said():
    found, _, rule, clock = run(itertools.repeat(0.01), enough=10**9)
    assert not found.converged
    assert found.unmet == (f"{len(rule.seen)} of {10**9}",)
    spent = clock.time_s - found.blocks[0].start_s
    assert OPTIONS.max_time_s <= spent <= 1.25 * OPTIONS.max_time_s
    assert found.blocks[0].sample_count == round(spent / 0.01)


def test_a_call_longer_than_all_the_time_there_is_gives_one_sample():
    found, timer, _, _ = run(itertools.repeat(60.0), enough=10)
    assert timer.takes == [(WARMUP_CALLS, 1), (1, 1)]
    assert found.samples_s == (60.0,) and not found.converged


def test_a_process_that_stood_still_for_all_the_time_there_is_takes_one_batch():
    class LateClock(FakeClock):
        """Every look at it comes later than the whole time."""

        def now(self):
            self.time_s += 2 * OPTIONS.max_time_s
            return self.time_s

    clock = LateClock()
    timer, rule = FakeTimer(clock, itertools.repeat(0.01)), FakeRule(10**9)
    found = measure(Turns(COUNTED), OPTIONS, timer, clock, rule)
    assert found.blocks[0].sample_count == len(rule.seen) == timer.takes[-1][0] and not found.converged


def test_whoever_watches_hears_of_every_call_ahead_of_it():
    told = []
    calls = [lambda: told.append("call") or Outputs("one")]
    _, timer, _, _ = run(itertools.repeat(0.01), calls=calls, alive=lambda: told.append("alive"))
    assert told == ["alive", "call"] * sum(count for count, _ in timer.takes)


def test_kept_samples_are_thinned_evenly_and_the_true_count_stays():
    lengths = itertools.chain(itertools.repeat(0.01, 55), (0.01 + i * 1e-9 for i in itertools.count()))
    options = OPTIONS.model_copy(update={"max_time_s": 1000.0})
    found, _, rule, _ = run(lengths, options, enough=5000)
    kept = found.samples_s
    assert found.blocks[0].sample_count == len(rule.seen) >= 5000
    assert len(kept) == KEPT_SAMPLES and list(kept) == sorted(kept)
    assert set(kept) <= {float(f"{sample:.9g}") for sample in rule.seen}
    places = [round((sample - 0.01) / 1e-9) for sample in kept]  # a sample is 1 ns longer than the one before it
    edges = [place * len(rule.seen) // KEPT_SAMPLES for place in range(KEPT_SAMPLES + 1)]
    assert all(low <= place < high for place, (low, high) in zip(places, itertools.pairwise(edges)))


def test_outliers_are_flagged_and_kept():
    jitter = [0.01 * (1 + 0.001 * ((7 * i) % 11 - 5)) for i in range(20)]
    jitter[13] = 0.5
    found, _, _, _ = run(itertools.chain(itertools.repeat(0.01, 55), jitter, itertools.repeat(0.01)))
    assert found.outliers == ((0, 13),)
    assert found.samples_s[13] == 0.5 and len(found.samples_s) == 20


def test_burst_idles_and_works_little_at_a_time():
    options = OPTIONS.model_copy(update={"regime": "burst", "cache": "warm", "max_time_s": 100.0})
    found, timer, _, clock = run(itertools.repeat(0.01), options)
    bursts = [count for count, _ in timer.takes[3:]]
    assert bursts == [int(BURST_WORK_S / 0.01)] * 4
    assert clock.slept == [BURST_IDLE_S] * 4
    assert found.regime == "burst"


@pytest.mark.parametrize(
    ("regime", "cache", "flushes"),
    [("burst", "cold", True), ("burst", "warm", False), ("sustained", "cold", False), ("sustained", "warm", False)],
)
def test_the_cache_is_flushed_before_each_sample_of_a_cold_burst_only(regime, cache, flushes):
    flushed = []
    options = OPTIONS.model_copy(update={"regime": regime, "cache": cache, "max_time_s": 100.0})
    found, _, rule, _ = run(itertools.repeat(0.01), options, flush=lambda: flushed.append(None))
    assert len(flushed) == (len(rule.seen) if flushes else 0)
    assert (found.regime, found.cache) == (regime, cache)


@pytest.mark.parametrize(
    ("estimate_s", "resolution_s", "calls"),
    [(1.0, 1e-6, 1), (1e-4, 1e-6, 1), (0.99e-4, 1e-6, 2), (1e-6, 0.5e-6, 50), (1e-9, 0.5e-6, 50000)],
)
def test_a_region_is_a_hundred_times_the_resolution(estimate_s, resolution_s, calls):
    assert region_calls(estimate_s, resolution_s) == calls
    assert calls * estimate_s >= 100 * resolution_s * (1 - 1e-9)


@pytest.mark.parametrize("count", [0, 1, KEPT_SAMPLES, KEPT_SAMPLES + 1, 3 * KEPT_SAMPLES + 5])
def test_thinning_keeps_order_and_the_ends_of_the_run(count):
    kept = list(thin(range(count), KEPT_SAMPLES))
    assert len(kept) == min(count, KEPT_SAMPLES) and kept == sorted(set(kept))
    assert not kept or (kept[0] == 0 and count - 1 - kept[-1] < math.ceil(count / KEPT_SAMPLES))


def test_a_cpu_is_not_asked_for_what_no_cpu_reaches():
    """Times that wander by 0.6 % either way: near enough with the CPU's timer, not with a GPU's."""
    lengths = [0.01 * (1 + 0.006 * (-1) ** (place // 20)) for place in range(400)]

    def measured(name):
        clock = FakeClock()
        timer = FakeTimer(clock, lengths)
        timer.name = name
        return measure(Turns(COUNTED), OPTIONS.model_copy(update={"min_samples": 40}), timer, clock)

    assert measured("cpu").converged
    gpu = measured("events")
    assert not gpu.converged and gpu.unmet[0].startswith("interval of the median +-0.6")


def test_the_clock_runs_on_evenly_when_the_machines_clock_is_set(monkeypatch):
    clock = SystemClock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    clock.sleep(0.01)
    assert 0.009 < clock.now() - before < 5
