"""When there are enough samples, when more would not do either: rules told samples made by formula or from a seed."""

import itertools
import math
import random
import statistics

import pytest
from fakes.timing import COUNTED, FakeClock, FakeTimer

from attnbench.records.measurement import Block, Measurement
from attnbench.records.stats import median_interval, two_speeds
from attnbench.settings import Timing
from attnbench.timing.interleave import TimedArm
from attnbench.timing.measure import WARMUP_CALLS, WARMUP_LIMIT, Turns, measure, warm_up
from attnbench.timing.rounds import take_turns
from attnbench.timing.sampling import Unwatched
from attnbench.timing.stopping import (
    FASTEST_FALL,
    GAVE_UP,
    SHARE_BEFORE_GIVING_UP,
    SHORT_PER_LONG,
    TWO_SPEEDS,
    BlockConvergence,
    Convergence,
    fall,
)


def convergence(samples, min_samples=30, min_time_s=0.1, calls_per_sample=1):
    rule = Convergence(min_samples, min_time_s)
    rule.add(samples, calls_per_sample)
    return rule


def test_the_rule_names_every_condition_that_is_not_met():
    rule = convergence([0.001] * 7, min_time_s=0.5)
    assert rule.unmet() == ("7 of 30 samples", "0.007 of 0.5 s timed") and not rule.done()
    assert convergence([0.001] * 40, min_time_s=0.5).unmet() == ("0.04 of 0.5 s timed",)
    assert convergence([1.0] * 7).unmet() == ("7 of 30 samples",)
    assert convergence([0.001] * 40, min_time_s=0.5, calls_per_sample=20).done()  # timed seconds count every call


def test_either_a_small_deviation_or_a_narrow_interval_is_enough():
    steady = [0.01 * (1 + 0.004 * (-1) ** i) for i in range(40)]
    assert convergence(steady).done()
    wide_but_stationary = [0.01 * (1 + 0.05 * math.sin(i)) for i in range(440)]
    rule = convergence(wide_but_stationary)
    assert rule.deviation() > 0.005 and rule.half_width() < 0.0025 and rule.done()


def test_a_drift_is_not_convergence():
    drifting = [0.01 * (1 + 0.001 * i) for i in range(100)]
    rule = convergence(drifting)
    assert not rule.done()
    (text,) = rule.unmet()
    assert text.startswith("interval of the median +-") and "deviation 2.7" in text


def test_few_samples_are_judged_by_their_deviation():
    assert convergence([1.0] * 3, min_samples=3).done()
    assert not convergence([1.0, 1.1, 1.2], min_samples=3).done()
    assert convergence([1.0], min_samples=1).unmet() == (
        "interval of the median unknown below 30 samples, deviation unknown of one sample",
    )


def test_the_half_width_is_that_of_the_interval_that_reports_show():
    """Ten batches with medians 1..10: ranks 2 and 9 enclose the median in 97.9 %, and one in ten may be anything."""
    medians = [*range(1, 10), 1000]
    rule = convergence([float(batch) for batch in medians for _ in range(5)])
    assert rule.half_width() == pytest.approx((9 - 2) / 2 / 5.5)
    block = Block(tuple(rule.samples_s), len(rule.samples_s))
    shown = median_interval(Measurement((block,), "cpu", "sustained", "cold", 1, True))
    assert shown.half_width(5.5) == rule.half_width()


def noise(seed, spread=0.1, wander=0.0, samples_a_step=400):
    """Call times around 1 ms without end: independent noise, and a level that moves on at random every so many."""
    generator = random.Random(seed)
    level = 0.0
    for place in itertools.count():
        if place % samples_a_step == 0:
            level = 0.95 * level + generator.gauss(0, wander)
        yield 0.001 * max(0.3, 1 + level + generator.gauss(0, spread))


def test_of_independent_samples_the_interval_falls_with_the_root_of_their_number():
    found = [fall([next(values) for _ in range(8 * SHORT_PER_LONG * 10)]) for values in map(noise, range(30))]
    assert statistics.median(found) == FASTEST_FALL and min(found) > 0.3


def test_of_a_level_that_wanders_more_samples_do_not_narrow_it():
    wandering = (noise(seed, 0.001, 0.05, 40) for seed in range(30))
    found = [fall([next(values) for _ in range(400)]) for values in wandering]
    assert statistics.median(found) < 0.25 and all(0 <= value <= FASTEST_FALL for value in found)


@pytest.mark.parametrize("medians", [[], [0.001] * 79, [0.001] * 200])
def test_where_nothing_can_be_told_of_it_the_best_is_assumed(medians):
    assert fall(medians) == FASTEST_FALL


def told(samples, enough=0.01):
    rule = Convergence(30, 0.1, enough)
    rule.add(list(samples), 1)
    return rule


def test_an_interval_that_the_time_left_can_narrow_enough_is_waited_for():
    """Twice too wide, of independent samples: four times as many do, three times as many do not."""
    rule = told(itertools.islice(noise(5), 1000))
    medians = rule.short_medians_s()
    assert fall(medians) == FASTEST_FALL
    expected = statistics.stdev(medians) / statistics.median(medians) / math.sqrt(SHORT_PER_LONG)
    assert expected == pytest.approx(rule.half_width(), rel=0.5), "by 80 short batches, and by 10 long ones"
    rule.enough_half_width = min(expected, rule.half_width()) / 2
    assert not rule.beyond_reach(4.1) and rule.beyond_reach(3.9)


def test_nothing_is_given_up_in_the_first_tenth_nor_while_samples_or_seconds_are_missing():
    rule = told(itertools.islice(noise(5), 1000), enough=1e-6)
    assert not rule.beyond_reach(1.01 / SHARE_BEFORE_GIVING_UP) and rule.beyond_reach(1 / SHARE_BEFORE_GIVING_UP)
    few = Convergence(30, 0.01, 1e-6)
    few.add(list(itertools.islice(noise(5), 29)), 1)
    assert not few.beyond_reach(1.0), "a median of 29 calls is worth more than one of 3"
    short = Convergence(30, 5.0, 1e-6)
    short.add(list(itertools.islice(noise(5), 1000)), 1)
    assert not short.beyond_reach(1.0)


def test_blocks_are_given_up_as_samples_are():
    values = noise(9)
    rule = BlockConvergence(10, 0.01, 1e-6)
    for _ in range(5):
        rule.add([next(values) for _ in range(20)], 1)
    assert not rule.beyond_reach(2.0), "no interval yet"
    rule.add([next(values) for _ in range(20)], 1)
    assert rule.beyond_reach(2.0)


def timed(lengths, name="cpu", **options):
    clock = FakeClock()
    timer = FakeTimer(clock, lengths)
    timer.name = name
    found = measure(Turns(COUNTED), Timing(**options), timer, clock)
    return found, clock.time_s - found.blocks[0].start_s


def test_a_noisy_cpu_costs_a_tenth_of_the_time_and_says_so():
    found, spent_s = timed(noise(1, 0.3, 0.2))
    assert not found.converged and GAVE_UP in found.flags
    assert 1.5 <= spent_s < 2.0
    assert found.unmet[0].startswith("interval of the median +-")


def test_a_cpu_that_can_become_steady_enough_is_measured_until_it_is():
    found, spent_s = timed(noise(3, 0.12), max_time_s=6.0)
    assert found.converged and found.flags == () and 0.6 < spent_s < 6
    again, _ = timed(noise(3, 0.12), max_time_s=spent_s / 2)
    assert not again.converged, "it needed that long"


def test_of_twenty_that_meet_the_rule_in_time_hardly_one_is_given_up():
    """Noise that comes within 1 % after half the time."""
    gave_up = [GAVE_UP in timed(noise(seed, 0.1), max_time_s=3.0)[0].flags for seed in range(20)]
    assert sum(gave_up) <= 2


def test_a_measurement_of_two_speeds_is_none():
    found, spent_s = timed(itertools.cycle([0.004, 0.008]))
    assert not found.converged and {TWO_SPEEDS, GAVE_UP} <= set(found.flags)
    assert found.unmet == ("two speeds, 4.000 ms and 8.000 ms: the median between them is neither",)
    assert spent_s < 2.0
    assert set(found.samples_s) == {0.004, 0.008}, "the record keeps some of both"


def test_two_speeds_are_kept_where_every_twentieth_sample_is():
    """Sixteen hundred pairs: every kept one at the same place of its pair would show one speed."""
    found, _ = timed(itertools.cycle([0.0001, 0.0002]), min_time_s=1.5, max_time_s=2.0)
    assert found.blocks[0].sample_count > 8000 and TWO_SPEEDS in found.flags
    assert two_speeds(found.samples_s) == (0.0001, 0.0002)


def taking_turns(*lengths, limit_s=4.0):
    clock = FakeClock()
    arms = []
    for label, values in enumerate(lengths):
        timer = FakeTimer(clock, values)
        timer.name = "cpu"
        arm = TimedArm(str(label), Turns(COUNTED), Timing(warmup_s=0.0, min_time_s=0.1), timer, Unwatched(), clock)
        arm.warm_up()
        arms.append(arm)
    started = clock.now()
    early = take_turns(arms, 0, limit_s, clock.now)
    return [arm.measurement(["a", "b"], 0, early) for arm in arms], clock.now() - started


def test_arms_stop_together_once_each_has_enough_or_no_hope_of_it():
    (steady, noisy), spent_s = taking_turns(itertools.repeat(0.001), noise(4, 0.5, 0.3, 50))
    assert steady.converged and steady.flags == ()
    assert not noisy.converged and noisy.flags == (GAVE_UP,)
    assert SHARE_BEFORE_GIVING_UP * 4 <= spent_s < 2.0


def test_an_arm_that_ran_out_of_time_did_not_give_up():
    (_, noisy), spent_s = taking_turns(itertools.repeat(0.001), noise(4, 0.5, 0.3, 50), limit_s=0.2)
    assert not noisy.converged and noisy.flags == () and spent_s == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("name", ["cpu", "events"])
def test_warm_up_of_a_steady_call_ends_with_the_second_window(name):
    clock = FakeClock()
    timer = FakeTimer(clock, itertools.repeat(0.001))
    timer.name = name
    assert warm_up(itertools.cycle(COUNTED), timer, clock, 0.25).spent_s == pytest.approx(0.5 + WARMUP_CALLS * 0.001)


def test_warm_up_on_a_cpu_takes_noise_for_noise_and_a_trend_for_a_trend():
    def spent(lengths, name):
        clock = FakeClock()
        timer = FakeTimer(clock, lengths)
        timer.name = name
        return warm_up(itertools.cycle(COUNTED), timer, clock, 0.25).spent_s / 0.25

    noisy = [[spent(noise(seed, 0.3, 0.05), name) for seed in range(10)] for name in ("cpu", "events")]
    assert statistics.median(noisy[0]) < 4 and statistics.median(noisy[1]) > 7
    falling = (0.001 * (1 + 0.3 * 0.999**place) for place in itertools.count())
    assert 4 < spent(falling, "cpu") <= WARMUP_LIMIT, "not before the calls have stopped becoming faster"


def disturbed(factor=60):
    """Nine in ten calls of 1 ms, and one that others hold up: the mean is several times the median."""
    return itertools.cycle([0.001] * 9 + [0.001 * factor])


def test_windows_and_batches_keep_to_their_seconds_where_calls_are_held_up():
    found, spent_s = timed(disturbed(), max_time_s=3.0)
    assert found.warmup_s < 3 * 0.25 * 7 and spent_s < 3.0 + 3.0 / 5
    clock = FakeClock()
    timer = FakeTimer(clock, disturbed())
    timer.name = "cpu"
    warm_up(itertools.cycle(COUNTED), timer, clock, 0.25)
    assert all(count < 50 for count, _ in timer.takes[2:]), "0.25 s of calls that take 7 ms in the mean"


def test_the_rule_has_what_the_time_out_leaves():
    found, spent_s = timed(noise(1, 0.3, 0.2), name="events", timeout_s=5.0, settle_s=0.0, min_time_s=4.0)
    assert not found.converged and found.warmup_s + spent_s < 5.0 + 0.5
    assert found.samples_s
