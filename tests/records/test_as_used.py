"""Of backends that are prepared anew ahead of each call, comparisons take preparing and calling together."""

import dataclasses

import pytest
from fakes.report_runs import measurement, ok

from attnbench.compare.pairs import _measurements
from attnbench.records.measurement import PREPARED_ANEW
from attnbench.records.result import Result

PREP_S, CALL_S = 3e-3, 1e-3


def record(**fields):
    return dataclasses.replace(ok("mine", CALL_S), measurement=measurement(CALL_S, prep_s=PREP_S, **fields))


def test_what_is_prepared_once_is_compared_by_its_calls():
    plain = record()
    assert plain.measurement.as_used is plain.measurement
    assert Result.of(plain).as_used.time_s == pytest.approx(CALL_S)


def test_what_is_prepared_for_every_call_is_compared_by_both():
    anew = record(flags=(PREPARED_ANEW,))
    (compared,) = _measurements([anew])
    assert compared.samples_s == tuple(sample + PREP_S for sample in anew.measurement.samples_s)
    result = Result.of(anew)
    assert result.time_s == pytest.approx(CALL_S), "the record is what was measured"
    assert result.as_used.time_s == pytest.approx(PREP_S + CALL_S)
