"""A new run against stored runs: the textbook's t for one case, false alarms and coverage by simulation for many."""

import math

import numpy
import pytest
from fakes.compared_runs import MACHINE, record, write_run
from scipy import stats as scipy_stats

from attnbench.compare.baseline import read_sides
from attnbench.compare.comparison import compare
from attnbench.compare.differences import (
    FEWEST_FOR_SHIFT,
    Levels,
    NotEnough,
    _trigamma_inverse,
    against_runs,
    moderated,
    suite_against_runs,
)
from attnbench.compare.margin import Margin
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, SLOWER, Pair, decide


def test_one_case_is_the_textbooks_two_sample_t():
    """Equal variances; with a single new run it is the prediction interval."""
    base, new = (0.01, 0.02, 0.06), (0.05, 0.09)
    found = against_runs({"x": Levels(base, new)})["x"]
    expected = scipy_stats.ttest_ind(new, base).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    one = against_runs({"x": Levels(base, new[:1])})["x"]
    spread = numpy.std(base, ddof=1) * math.sqrt(1 + 1 / 3)
    assert one.reach == pytest.approx(scipy_stats.t(2).ppf(0.95) * spread) and one.shift is None


def test_fewer_than_three_stored_runs_say_nothing():
    found = against_runs({"x": Levels((0.1, None, 0.2), (0.1,)), "y": Levels((0.1, None, None), (0.1,))})
    assert str(found["x"]).startswith("measured in 2 stored runs; it takes 3")
    assert str(found["y"]).startswith("measured in 1 stored run;")
    with pytest.raises(NotEnough):
        suite_against_runs([Levels((0.1, 0.2), (0.1,))])
    with pytest.raises(NotEnough, match="no case was measured in every run"):
        suite_against_runs([Levels((0.1, 0.2, None), (0.1,))])


def test_runs_that_do_not_have_every_case():
    """Gaps: the fit finds shifts and cases exactly where there is no noise."""
    shifts, cases = (0.0, 0.02, -0.01, 0.03), 12
    levels = {}
    for index in range(cases):
        values = [index / 10 + shift for shift in shifts]
        values[index % 4] = None if index % 3 == 0 else values[index % 4]
        levels[index] = Levels(tuple(values), (index / 10,))
    found = against_runs(levels)
    spread = numpy.std(shifts, ddof=1)
    for index, one in found.items():
        count = 3 if index % 3 == 0 else 4
        bound = scipy_stats.t(3).ppf(0.975) * spread * math.sqrt(1 + 1 / count)
        assert one.allowance == pytest.approx(bound) and one.standard_error < 2e-4


def simulated(dice, cases, runs, shift, own, effect=0.0):
    """Runs whose every case has its own level; all shift together by `shift`, and each case by its own spread."""
    spreads = numpy.broadcast_to(own, cases)[:, None]
    noise = dice.normal(size=(cases, runs + 1)) * spreads
    values = dice.normal(-7, 2, (cases, 1)) + dice.normal(0, shift, runs + 1) + noise
    values[:, -1] += effect
    return {index: Levels(tuple(row[:-1]), (row[-1],)) for index, row in enumerate(values.tolist())}


@pytest.mark.parametrize("shift, own", [(0.005, 0.001), (0.0, 0.005), (0.004, 0.004)])
@pytest.mark.parametrize("cases", [3, FEWEST_FOR_SHIFT, 40])
def test_false_alarms_at_the_very_margin(cases, shift, own):
    """All cases slower by exactly the margin: at most 5 % of suites may call any of them slower (200 suites)."""
    dice, margin = numpy.random.default_rng(7), Margin(0.01)
    alarms = 0
    for _ in range(200):
        found = against_runs(simulated(dice, cases, 3, shift, own, margin.log))
        verdicts = decide({key: Pair(one) for key, one in found.items()}, margin)
        alarms += any(verdict.kind == SLOWER for verdict in verdicts.values())
    assert alarms <= 18  # 10 expected at most; 19 and more have a probability under 1 %


def test_intervals_cover_when_cases_differ_in_noise():
    dice, inside, trials = numpy.random.default_rng(3), 0, 100
    own = numpy.exp(dice.normal(math.log(0.003), 0.7, 40))
    for _ in range(trials):
        inside += sum(one.low < 0 < one.high for one in against_runs(simulated(dice, 40, 3, 0.003, own)).values())
    assert inside / trials / 40 >= 0.90


def test_cases_lend_each_other_strength():
    """Three runs of one case leave two degrees of freedom; among forty alike there are many."""
    dice = numpy.random.default_rng(1)
    many = against_runs(simulated(dice, 40, 3, 0.0, 0.003))
    assert min(one.freedom for one in many.values()) > 10
    wild = against_runs(simulated(dice, 40, 3, 0.0, numpy.geomspace(1e-3, 1, 40)))
    assert max(one.freedom for one in wild.values()) < 10


def test_moderation_recovers_a_known_prior():
    """Variances drawn from a scaled inverse chi-square with 8 degrees of freedom at 4e-6."""
    dice, freedom, prior, common = numpy.random.default_rng(0), numpy.full(20_000, 4.0), 8, 4e-6
    true = prior * common / dice.chisquare(prior, freedom.size)
    sample = true * dice.chisquare(4, freedom.size) / 4
    variance, both = moderated(sample, freedom)
    assert both[0] == pytest.approx(prior + 4, rel=0.1)
    assert variance == pytest.approx((prior * common + 4 * sample) / (prior + 4), rel=0.1)


@pytest.mark.parametrize("value", [1e-8, 1e-3, 0.5, 3.0, 1e4, 1e9])
def test_trigamma_inverse(value):
    from scipy.special import polygamma

    assert float(polygamma(1, _trigamma_inverse(value))) == pytest.approx(value, rel=1e-3)


def test_the_mean_of_a_suite_replicates_runs():
    base = [(0.0, 0.01, 0.02), (1.0, 1.03, 1.02)]
    mean = suite_against_runs([Levels(row, (row[0] + 0.05,)) for row in base])
    assert mean.mean == pytest.approx(numpy.mean([0.05 - 0.01, 0.05 - 0.05 / 3]))
    shift = scipy_stats.t(2).ppf(0.975) * numpy.std([0.5, 0.52, 0.52], ddof=1) * math.sqrt(1 + 1 / 3)
    assert mean.reach == pytest.approx(shift, rel=0.02) and mean.unit == "run"


def at(folder, levels, start_s):
    """A run whose cases took `levels`, by case."""
    records = [record("mine", level, seqlen=64 * (1 + place)) for place, level in enumerate(levels)]
    return write_run(folder, records, MACHINE, start_s=start_s)


@pytest.mark.parametrize(("factor", "kind"), [(1.02, SLOWER), (0.98, FASTER)])
def test_what_a_stored_run_took_as_well_is_not_called_slower(factor, kind, tmp_path):
    """Forty narrow cases, and one that took 2 % more in one run of three: NEW takes it again, to the sample."""
    dice = numpy.random.default_rng(2)
    for place in range(3):
        levels = 1e-3 * (1 + 1e-4 * dice.normal(size=40))
        levels[7] = 1e-3 * (factor if place == 2 else 1)
        at(tmp_path / "base" / str(place), levels.tolist(), 1e9 + place)
    levels = 1e-3 * (1 + 1e-4 * dice.normal(size=40))
    for new, expected in ((factor, INCONCLUSIVE), (factor**1.5, kind)):
        levels[7] = 1e-3 * new
        sides = read_sides(tmp_path / "base", at(tmp_path / f"new{new}", levels.tolist(), 2e9 + new))
        verdict = compare(*sides, Margin(0.005)).cells[7].verdict
        assert verdict.kind == expected
        assert ("a stored run took" in verdict.reason) == (expected == INCONCLUSIVE), verdict.reason


def test_one_run_of_many_refutes_nothing(tmp_path):
    dice = numpy.random.default_rng(3)
    for place in range(10):
        levels = 1e-3 * (1 + 1e-4 * dice.normal(size=40))
        levels[7] = 1e-3 * (1.02 if place == 2 else 1)
        at(tmp_path / "base" / str(place), levels.tolist(), 1e9 + place)
    new = at(tmp_path / "new", (1e-3 * numpy.where(numpy.arange(40) == 7, 1.02, 1)).tolist(), 2e9)
    assert (
        "a stored run took" not in compare(*read_sides(tmp_path / "base", new), Margin(0.005)).cells[7].verdict.reason
    )
