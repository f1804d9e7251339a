"""Blocks under watch, with a fake clock, timer and watch: what is discarded, counted, retried, given up."""

import itertools
import json
from dataclasses import replace

import pytest
from fakes.report_runs import ok
from fakes.timing import COUNTED, OPTIONS, FakeClock, FakeRule, FakeTimer

from attnbench.records.measurement import Block, Conditions, RecordError
from attnbench.records.stored_record import stored_record
from attnbench.timing.measure import BURST_IDLE_S, Turns, measure
from attnbench.timing.sampling import COOL_DOWN_S, MOST_DISCARDED, RETRIES, Sampler, Unstable, Usability

HOT = "hardware thermal slowdown"


class FakeWatch:
    """Answers one after the other; `between` tells the interval back as conditions."""

    def __init__(self, *answers):
        self.answers, self.asked = iter(answers), []

    def between(self, start_s, end_s):
        self.asked.append((start_s, end_s))
        return Conditions(telemetry_samples=len(self.asked), sm_clock_mhz=end_s - start_s)

    def usability(self, conditions):
        return next(self.answers, Usability())


def sampler(watch, lengths=None, **options):
    clock = FakeClock()
    return Sampler(FakeTimer(clock, lengths or itertools.repeat(0.01)), watch, clock=clock, **options)


def test_a_block_tells_when_it_was_taken_and_under_what():
    found = sampler(FakeWatch(), iter([0.01, 0.03, 0.02])).take_block(itertools.cycle(COUNTED), 3, 2)
    assert found.samples_s == (0.01, 0.03, 0.02)
    assert (found.start_s, found.end_s) == (1000.0, pytest.approx(1000.12))
    block = found.block(process=2, round=5, arm="b", keep=2)
    assert block.samples_s == (0.01, 0.02) and block.sample_count == 3
    assert (block.process, block.round, block.arm, block.start_s) == (2, 5, "b", 1000.0)
    assert block.duration_s == block.conditions.sm_clock_mhz == pytest.approx(0.12)


def test_a_spoilt_block_is_counted_and_taken_again_after_a_pause():
    paused = []
    hot = Usability(HOT, flags=("never shown",))
    watch = FakeWatch(hot, Usability("power brake"), Usability(flags=("power_capped",)))
    maker = sampler(watch, iter([9.0, 9.0, 0.01]), after_pause=lambda: paused.append(None))
    assert maker.take_block(itertools.cycle(COUNTED), 1, 1).samples_s == (0.01,)
    assert maker.discarded == {HOT: 1, "power brake": 1}
    assert maker.flags == ("power_capped",)
    assert maker.clock.slept == [COOL_DOWN_S] * 2 and len(paused) == 2


def test_a_machine_that_never_holds_still_is_unstable():
    maker = sampler(FakeWatch(*[Usability(HOT)] * 10))
    with pytest.raises(Unstable, match=rf"{HOT} \({RETRIES + 1} blocks\), with 5 s to cool down") as caught:
        maker.take_block(itertools.cycle(COUNTED), 2, 1)
    assert "attnbench doctor" in str(caught.value)
    assert maker.discarded == {HOT: RETRIES + 1} and maker.clock.slept == [COOL_DOWN_S] * RETRIES


def test_a_machine_that_spoils_block_after_block_is_unstable_too():
    maker = sampler(FakeWatch(*[Usability(HOT), Usability()] * 20))
    for _ in range(MOST_DISCARDED - 1):
        maker.take_block(itertools.cycle(COUNTED), 1, 1)
    assert maker.lost_s == pytest.approx((MOST_DISCARDED - 1) * (COOL_DOWN_S + 0.01))
    with pytest.raises(Unstable, match=rf"\({MOST_DISCARDED} blocks\)"):
        maker.take_block(itertools.cycle(COUNTED), 1, 1)


@pytest.mark.parametrize("lengths", [[0.0], [-1e-3], [0.01, 0.0]])
def test_a_sample_without_length_is_no_sample(lengths):
    maker = sampler(FakeWatch(), itertools.chain(lengths, itertools.repeat(0.02)))
    assert maker.take_block(itertools.cycle(COUNTED), len(lengths), 1).samples_s == (0.02,) * len(lengths)
    assert maker.discarded == {"a clock went backwards": 1}


def test_a_clock_that_goes_backwards_gives_no_negative_block():
    maker = sampler(FakeWatch())
    ticks = iter([1000.0, 990.0, 1000.0, 2000.0, 2000.5])
    maker.clock.now = lambda: next(ticks)
    found = maker.take_block(itertools.cycle(COUNTED), 1, 1)
    assert (found.start_s, found.end_s) == (2000.0, 2000.5)
    assert maker.discarded == {"a clock went backwards": 1}
    with pytest.raises(RecordError, match="lasted -1 s; a clock went backwards"):
        Block((0.01,), 1, duration_s=-1.0)


def timed(watch, lengths=None, options=OPTIONS, enough=20):
    clock = FakeClock()
    timer = FakeTimer(clock, lengths or itertools.repeat(0.01))
    return measure(Turns(COUNTED), options, timer, clock, FakeRule(enough), watch=watch), clock


def test_one_block_where_nothing_was_spoilt():
    watch = FakeWatch()
    found, clock = timed(watch)
    (block,) = found.blocks
    assert block.sample_count == 20 and block.duration_s == pytest.approx(0.2)
    assert watch.asked[-1] == (block.start_s, pytest.approx(block.start_s + 0.2))  # of the whole block
    assert found.discarded == {} and found.flags == () and clock.slept == []


def test_a_spoilt_batch_parts_the_samples_and_enters_no_number():
    """The third batch is throttled: two blocks, no sample of it, and the machine is warmed up again between them."""
    warming = [0.01] * (5 + 25 + 25)
    batches = itertools.count()

    class Throttled(FakeWatch):
        def usability(self, conditions):
            return Usability(HOT) if next(batches) == 2 else Usability(flags=("clock_varied",))

    lengths = itertools.chain(warming, [0.01] * 4, [5.0] * 2, [0.011] * 5, itertools.repeat(0.01))
    found, clock = timed(Throttled(), lengths)
    assert max(found.samples_s) < 0.012
    assert [block.round for block in found.blocks] == [0, 1]
    assert sum(block.sample_count for block in found.blocks) == 20
    assert found.discarded == {HOT: 1} and found.flags == ("clock_varied",)
    assert clock.slept == [COOL_DOWN_S]
    first, second = found.blocks
    assert second.start_s >= first.start_s + first.duration_s + COOL_DOWN_S + 2 * OPTIONS.warmup_s


def test_each_burst_is_a_block():
    options = OPTIONS.model_copy(update={"regime": "burst", "max_time_s": 100.0})
    found, _ = timed(FakeWatch(), options=options)
    assert [block.sample_count for block in found.blocks] == [5] * 4
    assert [block.duration_s for block in found.blocks] == [pytest.approx(0.05)] * 4
    starts = [block.start_s for block in found.blocks]
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [
        pytest.approx(BURST_IDLE_S + 0.05)
    ] * 3


def test_conditions_survive_the_record():
    texts = {"reasons": ("power cap",), "problems": ("power: Not Supported",)}
    full = Conditions(telemetry_samples=9, sm_clock_mhz=1755.0, power_w=640.5, **texts)
    block = Block((0.01,), 1, start_s=5.0, duration_s=0.5, conditions=full)
    row = {
        "samples_s": [0.01],
        "sample_count": 1,
        "start_s": 5.0,
        "duration_s": 0.5,
        "conditions": {
            "telemetry_samples": 9,
            "sm_clock_mhz": 1755.0,
            "power_w": 640.5,
            "reasons": ["power cap"],
            "problems": ["power: Not Supported"],
        },
    }
    assert read_again(row) == block
    bare = replace(block, start_s=0.0, duration_s=0.0, conditions=None)
    assert read_again({"samples_s": [0.01], "sample_count": 1}) == bare


def read_again(block):
    """The block of a stored record."""
    stored = json.loads(ok("naive", 1e-3).to_json())
    stored["measurement"] |= {"blocks": [block], "outliers": []}
    (found,) = stored_record(json.dumps(stored)).measurement.blocks
    return found
