"""The time of a preparation that use repeats: whose, how many samples, and where there is none."""

import dataclasses

import pytest
import torch
from test_trial import CASE, FP8, Backend, problem

from attnbench.backend import PrepCall
from attnbench.backends import builtin
from attnbench.records.measurement import REFERENCE_PREP
from attnbench.worker.prepared import LEAST_SAMPLES, MOST_SAMPLES, PREP_TIME_S, WARMUP_CALLS, sample, time_prep_call
from attnbench.worker.trial import run_trial


class FakeTimer:
    """Every call takes time_s; remembers what was asked for."""

    name, flags = "fake", ()

    def __init__(self, time_s: float, region: int = 1):
        self.time_s, self._region, self.asked = time_s, region, []

    def region(self, estimate_s: float) -> int:
        assert estimate_s == self.time_s
        return self._region

    def take(self, calls, count, calls_per_sample, before):
        self.asked.append((count, calls_per_sample, before))
        for _ in range(count * calls_per_sample):
            next(calls)()
        return [self.time_s] * count


def timed(time_s: float, region: int = 1, before=None):
    calls = []
    timer = FakeTimer(time_s, region)
    return sample(PrepCall("mine", lambda: calls.append(1)), timer, before), timer, len(calls)


def test_samples_fill_the_time_within_bounds():
    taken, timer, calls = timed(PREP_TIME_S / 10)
    assert (taken.about, len(taken.samples_s), taken.calls_per_sample, taken.cache) == ("mine", 10, 1, "warm")
    assert timer.asked == [(WARMUP_CALLS, 1, None), (10, 1, None)] and calls == WARMUP_CALLS + 10
    assert len(timed(10 * PREP_TIME_S)[0].samples_s) == LEAST_SAMPLES
    taken, _, calls = timed(1e-6, region=50)
    assert len(taken.samples_s) == MOST_SAMPLES and taken.calls_per_sample == 50
    assert calls == WARMUP_CALLS + 50 * MOST_SAMPLES


def test_cold_only_where_the_cache_is_emptied_ahead_of_each_call():
    def flush():
        raise AssertionError("the timer calls it, not the sampling")

    taken, timer, _ = timed(1e-3, before=flush)
    assert taken.cache == "cold" and [before for *_, before in timer.asked] == [flush, flush]
    assert timed(1e-6, region=50, before=flush)[0].cache == "warm"


def test_e4m3_records_carry_the_reference_quantizers_time():
    record = run_trial(problem(FP8), builtin()["fp8_emulated"], timed=True)
    assert record.status == "ok" and record.measurement.prep_call.about == REFERENCE_PREP
    assert len(record.measurement.prep_call.samples_s) >= LEAST_SAMPLES
    assert run_trial(problem(FP8), builtin()["fp8_emulated"], timed=False).measurement is None
    assert run_trial(problem(CASE), Backend(), timed=True).measurement.prep_call is None


def test_the_reference_quantizer_is_timed_once_for_all_backends_of_a_case(monkeypatch):
    calls = []
    monkeypatch.setattr("attnbench.reference.quantize.quantize", lambda *arguments: calls.append(arguments))
    place = problem(FP8)
    inputs = dataclasses.replace(place.reference.inputs)
    first = time_prep_call(place, builtin()["fp8_emulated"], inputs)
    made = len(calls)
    assert made > LEAST_SAMPLES and time_prep_call(place, builtin()["naive"], inputs) is first and len(calls) == made
    assert calls[0][0] is inputs.q and calls[0][3] is FP8


@pytest.mark.parametrize("case", [CASE, FP8], ids=["fp16", "e4m3"])
def test_a_backend_gives_its_own_preparation(case):
    seen = []
    own = Backend(prep_call=lambda case, inputs: PrepCall("own kernel", lambda: seen.append(inputs)))
    place = problem(case)
    taken = time_prep_call(place, own, place.reference.inputs)
    assert taken.about == "own kernel" and seen[0] is place.reference.inputs
    assert place.reference_prep is None


def test_a_quantizer_of_ones_own_that_is_not_given_is_not_made_up():
    place = problem(FP8)
    assert time_prep_call(place, Backend(own_quantizer=True), place.reference.inputs) is None
    nothing = Backend(prep_call=lambda case, inputs: None)
    assert time_prep_call(place, nothing, place.reference.inputs).about == REFERENCE_PREP


def test_a_preparation_that_writes_the_inputs_or_raises_is_the_backends_error():
    def writes(case, inputs):
        return PrepCall("bad", lambda: inputs.q.add_(1))

    record = run_trial(problem(CASE), Backend(prep_call=writes), timed=True)
    assert (record.status, record.kind) == ("error", "contract") and "it wrote its inputs" in record.reason

    def raises(case, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    record = run_trial(problem(CASE), Backend(prep_call=raises), timed=True)
    assert (record.status, record.kind) == ("error", "oom") and record.reason.startswith("while being timed: ")
