"""One arm's blocks with a fake timer and clock: their sizes, lead-in, rounds, convergence over blocks."""

import itertools
import math

import pytest
from fakes.timing import COUNTED, FakeClock, FakeTimer

from attnbench.records.measurement import KEPT_SAMPLES
from attnbench.records.stats import units_needed
from attnbench.settings import Timing
from attnbench.timing.interleave import (
    BLOCK_S,
    BLOCK_SAMPLES,
    LEAD_IN_CALLS,
    LEAST_ROUNDS,
    BlockConvergence,
    TimedArm,
    block_samples,
    lead_in,
)
from attnbench.timing.measure import BURST_IDLE_S, BURST_WORK_S, WARMUP_CALLS, Turns
from attnbench.timing.rounds import BLOCKS_A_ROUND, take_turns
from attnbench.timing.sampling import Unwatched

OPTIONS = Timing(min_samples=10, min_time_s=0.1, max_time_s=5.0, warmup_s=0.0, settle_s=0.0)


def arm(lengths, options=OPTIONS, clock=None, label="1", flush=None, calls_per_region=1, process=0):
    clock = clock or FakeClock()
    timer = FakeTimer(clock, lengths, calls_per_region)
    made = TimedArm(label, Turns(COUNTED), options, timer, Unwatched(), clock, flush, process)
    made.warm_up()
    timer.takes.clear()
    return made, timer, clock


def test_a_block_is_ten_samples_and_twenty_milliseconds_after_three_untimed_calls():
    long, timer, _ = arm(itertools.repeat(0.01))
    long.take(0, 1)
    assert timer.takes == [(LEAD_IN_CALLS, 1), (BLOCK_SAMPLES, 1)]
    short, timer, clock = arm(itertools.repeat(1e-4))
    before_s = clock.now()
    short.take(0, 1)
    assert timer.takes == [(LEAD_IN_CALLS, 1), (200, 1)]
    assert clock.now() - before_s == pytest.approx(BLOCK_S + LEAD_IN_CALLS * 1e-4)
    (block,) = short.measurement(("a", "b"), 1).blocks
    assert block.sample_count == 200 and block.duration_s == pytest.approx(BLOCK_S), "the lead-in is not in it"


def test_samples_of_several_calls_make_a_block_too():
    short, timer, _ = arm(itertools.repeat(1e-6), calls_per_region=50)
    short.take(0, 1)
    assert timer.takes[0] == (LEAD_IN_CALLS, 1)
    assert timer.takes[1] in ((400, 50), (401, 50)), "20 ms of regions of 50 calls of 1 us, rounded up"


@pytest.mark.parametrize("call_s", [1e-5, 1e-3, 0.05, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("growth", [1, 4])
def test_the_least_rounds_fit_into_the_time_where_calls_allow_it(call_s, growth):
    count = block_samples(call_s, OPTIONS, growth)
    spent_s = LEAST_ROUNDS * BLOCKS_A_ROUND * count * call_s
    assert count >= 1 and (spent_s <= OPTIONS.max_time_s or count == 1)
    if growth * max(BLOCK_S, BLOCK_SAMPLES * call_s) * LEAST_ROUNDS * BLOCKS_A_ROUND <= OPTIONS.max_time_s:
        assert count >= growth * BLOCK_SAMPLES and count * call_s >= growth * BLOCK_S * (1 - 1e-9)


@pytest.mark.parametrize(("call_s", "calls"), [(1e-6, 3), (0.019, 3), (0.025, 2), (0.05, 1), (0.07, 0), (9.0, 0)])
def test_long_calls_need_no_lead_in(call_s, calls):
    assert lead_in(call_s) == calls


def test_a_measurement_says_who_took_turns_and_which_round_each_block_is_of():
    made, _, clock = arm(itertools.repeat(0.01), label="2", process=3)
    for round, growth in ((0, 1), (0, 1), (1, 2)):
        made.take(round, growth)
    found = made.measurement(["naive", "mine"], 77)
    assert [(block.process, block.round, block.arm, block.sample_count) for block in found.blocks] == [
        (3, 0, "2", 10), (3, 0, "2", 10), (3, 1, "2", 20),
    ]  # fmt: skip
    assert (found.together, found.order_seed) == (("naive", "mine"), 77)
    assert (found.timer, found.regime, found.cache, found.calls_per_sample, found.input_sets) == (
        "fake", "sustained", "cold", 1, 3,
    )  # fmt: skip
    assert found.converged and found.warmup_s == pytest.approx(WARMUP_CALLS * 0.01)
    assert found.blocks[0].start_s < found.blocks[1].start_s < found.blocks[2].start_s < clock.now()


def test_many_blocks_keep_512_samples_together():
    made, _, _ = arm(itertools.repeat(1e-4))
    for round in range(20):
        made.take(round, 1)
    blocks = made.measurement(("a", "b"), 0).blocks
    assert {len(block.samples_s) for block in blocks} == {KEPT_SAMPLES // 20}
    assert {block.sample_count for block in blocks} == {200}


def test_burst_idles_before_each_block_flushes_and_has_no_lead_in():
    flushed = []
    options = OPTIONS.model_copy(update={"regime": "burst"})
    made, timer, clock = arm(itertools.repeat(0.01), options, flush=lambda: flushed.append(None))
    made.take(0, 1)
    assert timer.takes == [(int(BURST_WORK_S / 0.01), 1)] and clock.slept == [BURST_IDLE_S]
    assert len(flushed) == int(BURST_WORK_S / 0.01)
    assert made.measurement(("a", "b"), 0).regime == "burst"


def converged(*blocks, min_samples=10, min_time_s=0.01):
    rule = BlockConvergence(min_samples, min_time_s)
    for block in blocks:
        rule.add(block, 1)
    return rule


def test_the_interval_is_that_of_block_medians():
    noisy = [0.01, 0.012, 0.008, 0.011, 0.009]
    assert converged(*[noisy] * units_needed()).done(), "medians agree, however noisy the samples of a block are"
    assert not converged(*[noisy] * (units_needed() - 1)).done()
    (text,) = converged(*[noisy] * (units_needed() - 1)).unmet()
    assert text.startswith("interval of the median unknown below 6 blocks, deviation ")
    drifting = [[sample * (1 + 0.01 * place) for sample in noisy] for place in range(2 * units_needed())]
    assert not converged(*drifting).done()


def test_a_disturbed_block_does_not_widen_the_interval():
    """Medians 1..10, the last disturbed: ranks 2 and 9 enclose the median."""
    rule = converged(*[[float(median)] * 3 for median in (*range(1, 10), 1000)])
    assert rule.half_width() == pytest.approx((9 - 2) / 2 / 5.5)


def test_steady_samples_need_no_further_blocks_but_samples_and_time():
    assert converged([0.01] * 5, [0.01] * 5).done()
    assert converged([0.01] * 5).unmet() == ("5 of 10 samples",)
    assert converged([1e-4] * 20).unmet() == ("0.002 of 0.01 s timed",)


def test_arms_of_one_clock_drift_apart_by_what_they_differ():
    """The machine slows down by 10 % while two arms, 2 % apart, take turns: the paired difference stays 2 %."""
    clock = FakeClock()

    def slowing(factor):
        while True:
            yield 0.001 * factor * (1 + 0.1 * (clock.time_s - 1000.0))

    options = OPTIONS.model_copy(update={"min_samples": 10**6})
    arms = [arm(slowing(factor), options, clock, label)[0] for factor, label in ((1.0, "1"), (1.02, "2"))]
    take_turns(arms, 0, 1.0, clock.now)
    one, other = (made.measurement(("a", "b"), 0) for made in arms)
    rounds = {}
    for measurement, sign in ((one, -1), (other, 1)):
        for block in measurement.blocks:
            middle = sorted(block.samples_s)[len(block.samples_s) // 2]
            rounds[block.round] = rounds.get(block.round, 0.0) + sign * math.log(middle) / 2
    assert len(rounds) > 5 and max(one.samples_s) > 1.05 * min(one.samples_s)
    for difference in rounds.values():
        assert difference == pytest.approx(math.log(1.02), abs=5e-4)
