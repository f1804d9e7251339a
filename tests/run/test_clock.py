"""A backend's times against the clock of the process that asked for them."""

import dataclasses

import pytest
from fakes.report_runs import measurement, ok

from attnbench.records.measurement import PREPARED_ANEW
from attnbench.run.clock import RULE_LESS, RULE_MORE, held_against_the_clock, sampled_s


def timed(call_s, **fields):
    record = ok("mine", call_s)
    return dataclasses.replace(
        record, measurement=dataclasses.replace(measurement(call_s), **{"timer": "cpu", **fields})
    )


def test_times_that_fit_are_left_alone():
    record = timed(0.1)  # thirty samples, three seconds
    assert sampled_s(record.measurement) == pytest.approx(3.0, rel=0.01)
    for passed_s in (3.0, 6.0, 30.0):
        assert held_against_the_clock(record, passed_s) is record


def test_more_samples_than_there_was_time():
    record = held_against_the_clock(timed(0.1), 1.0)
    assert record.status == "incorrect" and record.measurement is None
    assert record.reason.startswith("its times are not those that passed: ")
    (check,) = record.accuracy.failures
    assert (check.rule, check.limit) == (RULE_MORE, pytest.approx(1.12)) and check.value == pytest.approx(3.0, rel=0.01)
    assert record.accuracy.values["median_s"] == pytest.approx(0.1, rel=0.01)


def test_time_that_its_samples_do_not_explain():
    assert held_against_the_clock(timed(1e-6), 14.0).status == "ok", "what a measurement costs beside its samples"
    record = held_against_the_clock(timed(1e-6), 16.0)
    (check,) = record.accuracy.failures
    assert (check.rule, check.value) == (RULE_LESS, 16.0) and check.limit == pytest.approx(15.0, rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"warmup_s": 2.0},
        {"discarded": {"throttled": 1}},
        {"regime": "burst"},
        {"flags": (PREPARED_ANEW,), "prep_s": 0.01},
    ],
)
def test_warm_ups_pauses_and_intended_idleness_are_no_fault(fields):
    record = timed(1e-6, **fields)
    assert held_against_the_clock(record, 16.0) is record


def test_launches_between_calls_of_a_gpu_are_no_fault():
    blocks = tuple(dataclasses.replace(block, sample_count=30_000) for block in timed(1e-6).measurement.blocks)
    record = timed(1e-6, blocks=blocks, timer="events")
    assert held_against_the_clock(record, 20.0) is record
    assert held_against_the_clock(record, 25.0).status == "incorrect"
    assert held_against_the_clock(timed(1e-6, blocks=blocks), 20.0).status == "incorrect"


def test_calls_of_several_a_sample_count_as_often():
    assert sampled_s(timed(1e-3, calls_per_sample=100).measurement) == pytest.approx(3.0, rel=0.01)


def test_what_was_not_timed_has_no_clock():
    record = dataclasses.replace(timed(0.1), measurement=None)
    assert held_against_the_clock(record, 0.0) is record
