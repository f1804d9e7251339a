"""Verdicts against scipy's own t tests, hand-made extremes, and the words that each refusal has."""

import math
from dataclasses import replace

import numpy
import pytest
from scipy import stats as scipy_stats

from attnbench.compare.differences import (
    RUN,
    Difference,
    NotEnough,
    Shift,
    across_processes,
    level,
    noise_floor,
    process_differences,
    suite_mean,
)
from attnbench.compare.margin import Margin, percent, signed
from attnbench.compare.verdict import (
    CLOCK_OR_POWER,
    CODE,
    FASTER,
    INCONCLUSIVE,
    MISSING,
    SAME,
    SLOWER,
    Pair,
    Verdict,
    called_slower_from,
    confirm,
    decide,
    decide_one,
    holm,
    to_confirm,
)
from attnbench.records.measurement import Block

ONE = Margin(0.01)


def block(median_s: float, process: int = 0, round: int = 0) -> Block:
    return Block((0.9 * median_s, median_s, 3 * median_s), 3, process=process, round=round)


def made(mean: float, spread: float = 0.003, count: int = 5) -> Difference:
    """Differences of `count` processes with exactly this mean and sample standard deviation."""
    values = numpy.linspace(-1, 1, count)
    return across_processes((mean + spread * values / values.std(ddof=1)).tolist(), 3)


def test_blocks_are_matched_by_process_and_round():
    base = [block(1.0, 0, 0), block(1.0, 0, 1), block(2.0, 1, 0), block(5.0, 2, 0)]
    new = [block(1.1, 0, 0), block(1.2, 0, 0), block(1.3, 0, 1), block(2.0, 1, 0), block(9.0, 1, 7)]
    found = process_differences(base, new)
    first = (math.log(1.1) + math.log(1.2)) / 2  # two blocks of one arm in a round: ABBA
    assert found == {0: pytest.approx((first + math.log(1.3)) / 2), 1: pytest.approx(0)}


def test_a_disturbed_round_does_not_count_for_more_than_the_others():
    base = [block(1.0, 0, place) for place in range(8)]
    new = [block(1.3 if place == 5 else 1.02 + 0.001 * place, 0, place) for place in range(8)]
    kept = sorted(math.log(one.samples_s[1]) for one in new)[2:6]  # a quarter of the eight falls away at either end
    assert process_differences(base, new) == {0: pytest.approx(sum(kept) / 4)}
    assert level(new) == pytest.approx(sum(kept) / 4)


def test_blocks_may_count_in_another_unit():
    base, new = [block(1.0)], [block(2.0)]
    assert process_differences(base, new, weigh=lambda one: one.samples_s[2]) == {0: pytest.approx(math.log(2))}


def test_level_weighs_processes_and_not_blocks():
    blocks = [block(1.0), block(math.e**2), block(math.e**3, process=1)]
    assert level(blocks) == pytest.approx((1 + 3) / 2)


@pytest.mark.parametrize("mean", [-0.02, 0.0, 0.011, 0.03])
def test_bounds_are_scipys(mean):
    difference = made(mean)
    test = scipy_stats.ttest_1samp(difference.units, 0)
    assert (difference.low, difference.high) == pytest.approx(tuple(test.confidence_interval(0.90)))
    above = scipy_stats.ttest_1samp(difference.units, ONE.log, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(difference.units, -ONE.log, alternative="less").pvalue
    assert (difference.p_above(ONE.log), difference.p_below(ONE.log)) == pytest.approx((above, below))


def test_a_p_value_and_its_bound_say_the_same():
    """Wherever the margin is, p is under 5 % exactly when the bound is beyond it."""
    one, other = (Difference(mean, 0.002, 7.0, (mean,), "process") for mean in (0.03, -0.03))
    for margin in numpy.linspace(0, 0.04, 81):
        assert (one.p_above(margin) < 0.05) == (one.low > margin)
        assert (other.p_below(margin) < 0.05) == (other.high < -margin)


def test_a_shift_of_the_run_is_held_to_99_percent_before_a_case_is_slower():
    """The bound of the verdict, from scipy's quantiles: 1 % for the shift, the other 4 % for the case."""
    one = Difference(0.03, 0.002, 7.0, (0.03,), "run", Shift(0.001, 3))
    interval = scipy_stats.t(3).ppf(0.975) * 0.001 + scipy_stats.t(7).ppf(0.975) * 0.002
    assert (one.low, one.high) == pytest.approx((0.03 - interval, 0.03 + interval))
    bound = 0.03 - scipy_stats.t(3).ppf(0.99) * 0.001 - scipy_stats.t(7).ppf(0.96) * 0.002
    assert one.p_above(bound - 1e-9) < 0.05 < one.p_above(bound + 1e-9)


@pytest.mark.parametrize(
    ("mean", "spread", "kind"),
    [
        (0.03, 0.003, SLOWER),
        (-0.03, 0.003, FASTER),
        (0.0, 0.003, SAME),
        (0.004, 0.003, SAME),
        (0.012, 0.003, INCONCLUSIVE),  # over the margin, and not by enough to be sure
        (0.0, 0.03, INCONCLUSIVE),
        (0.05, 0.05, INCONCLUSIVE),
    ],
)
def test_verdict_of_one_case(mean, spread, kind):
    verdict = decide_one(Pair(made(mean, spread)), ONE)
    assert verdict.kind == kind and verdict.difference == pytest.approx(math.expm1(mean))
    low, high = verdict.interval
    assert low < verdict.difference < high and verdict.reason


def test_equal_medians_are_not_certainty():
    """A coarse timer gives the same number in every process; the spread then has a floor."""
    verdict = decide_one(Pair(across_processes([0.0101] * 3, 3)), ONE)
    assert verdict.kind == INCONCLUSIVE and verdict.interval[0] < verdict.interval[1]


def test_differences_as_text():
    assert [signed(value) for value in (0.031, -0.5, 0.0, 8.9, 11.5)] == [
        "+3.10 %", "-50.00 %", "+0.00 %", "+890.00 %", "12.5x"]  # fmt: skip
    assert [percent(value) for value in (0.01, 0.0035, 0.000004)] == ["1 %", "0.35 %", "0 %"]


def test_holm_by_brute_force():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values) == {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_holm_over_all_cases_that_are_judged_together():
    """A case that is slower alone is inconclusive among forty, and says so."""
    borderline = {"x": Pair(made(0.0145))}
    assert decide(borderline, ONE)["x"].kind == SLOWER
    among = borderline | {str(index): Pair(made(0.0)) for index in range(39)}
    verdict = decide(among, ONE)["x"]
    assert verdict.kind == INCONCLUSIVE and "not with all cases judged (adjusted p" in verdict.reason


def test_the_noise_floor_widens_the_margin():
    assert Margin(0.01, 0.003).value == 0.01 and Margin(0.01, 0.0075).value == 0.015
    assert str(Margin(0.01, 0.0075)) == "1.5 %: 2 times the A/A noise floor 0.75 %, where 1 % was asked"
    assert decide_one(Pair(made(0.016)), Margin(0.01)).kind == SLOWER
    assert decide_one(Pair(made(0.016)), Margin(0.01, 0.0075)).kind == INCONCLUSIVE
    assert decide_one(Pair(made(0.02)), Margin(0.01, 0.0075)).kind == SLOWER
    assert noise_floor([[0.003, 0.005], [-0.003, -0.003]]) == pytest.approx(math.sqrt((0.004**2 + 0.003**2) / 2))
    with pytest.raises(NotEnough, match="against itself"):
        noise_floor([])


def test_the_margin_is_never_more_than_twice_what_was_asked():
    """Within the noise neither "the same" nor "slower" answers what was asked; by more than the noise, they do."""
    noisy = Margin(0.01, 0.18)
    assert noisy.value == 0.02 and str(noisy) == "2 %, the widest where 1 % is asked; A/A noise floor 18 %"
    for mean in (0.0, 0.1, -0.1, 0.3):
        verdict = decide_one(Pair(made(mean)), noisy)
        assert verdict.kind == INCONCLUSIVE
        assert verdict.reason == "noise floor: 2 times it is 36 %, and 1 % was asked"
    assert decide_one(Pair(made(0.4)), noisy).kind == SLOWER and decide_one(Pair(made(-0.4)), noisy).kind == FASTER


def test_the_same_takes_that_what_was_asked_about_would_have_shown():
    assert decide_one(Pair(made(0.0)), Margin(0.01, 0.0049)).kind == SAME
    verdict = decide_one(Pair(made(0.0)), Margin(0.01, 0.0051))
    assert verdict.kind == INCONCLUSIVE
    assert verdict.reason == "noise floor: 1.02 % would have shown, and 1 % was asked"
    for spread in numpy.geomspace(1e-4, 0.1, 60):
        verdict = decide_one(Pair(made(0.0, spread)), ONE)
        assert (verdict.kind == SAME) == (verdict.resolution < ONE.asked)


@pytest.mark.parametrize(("spread", "count", "cases"), [(0.003, 5, 1), (0.01, 5, 40), (0.003, 12, 7)])
def test_what_is_said_to_be_called_slower_is(spread, count, cases):
    """Four times of five, by simulation of the case beside others that are equal."""
    dice, trials = numpy.random.default_rng(5), 400
    (effect, *_) = called_slower_from([made(0.0, spread, count)] * cases, ONE)
    others = {index: Pair(made(0.0, spread, count)) for index in range(cases - 1)}
    found = 0
    for _ in range(trials):
        drawn = across_processes(dice.normal(math.log1p(effect), spread, count), 3)
        found += decide({**others, "x": Pair(drawn)}, ONE)["x"].kind == SLOWER
    assert 0.72 <= found / trials <= 0.93


@pytest.mark.parametrize("asked", [0, -0.01, 1, math.nan])
def test_a_margin_that_cannot_be(asked):
    with pytest.raises(ValueError, match="between 0 and 100 %"):
        Margin(asked)


def test_too_few_processes_are_no_verdict():
    with pytest.raises(NotEnough, match="measured in 2 processes; it takes 3"):
        across_processes([0.1, 0.1], 3)
    with pytest.raises(NotEnough, match="measured in 1 process; it takes 2"):
        across_processes([0.1], 1)


@pytest.mark.parametrize(
    ("time", "cycles", "shift", "kind", "cause"),
    [
        (0.03, None, None, SLOWER, ""),
        (0.03, None, 0.01, SLOWER, ""),
        (0.03, None, -0.03, INCONCLUSIVE, ""),  # clocks apart, and nobody counted cycles
        (0.03, 0.0, -0.03, INCONCLUSIVE, CLOCK_OR_POWER),
        (0.03, 0.03, 0.0, SLOWER, CODE),
        (0.06, 0.03, -0.03, SLOWER, CODE),
        (0.03, 0.0, -0.01, SLOWER, CLOCK_OR_POWER),
        (0.03, 0.0108, 0.0, SLOWER, ""),  # cycles can not tell
        (0.0, 0.03, 0.03, INCONCLUSIVE, CLOCK_OR_POWER),  # a clock that made up for slower code
        (0.0, 0.0, 0.0, SAME, ""),
        (-0.03, -0.03, 0.02, FASTER, CODE),
    ],
)
def test_clocks_that_differ_decide_in_cycles(time, cycles, shift, kind, cause):
    pair = Pair(made(time), None if cycles is None else made(cycles), shift)
    verdict = decide({"x": pair}, ONE)["x"]
    assert (verdict.kind, verdict.cause) == (kind, cause)
    if kind == INCONCLUSIVE:
        assert "SM clocks differ by" in verdict.reason


@pytest.mark.parametrize("mean", [0.03, -0.03])
def test_against_stored_runs_the_same_cycles_are_no_verdict_on_code(mean):
    """A clock within 1.5 % of the other side's is still beyond a margin of 1 %; it was the session's, nobody's code."""
    time, cycles = (Difference(value, 0.001, 4.0, (value,), RUN) for value in (mean, 0.0))
    verdict = decide_one(Pair(time, cycles, -mean / 2.5), ONE)
    assert (verdict.kind, verdict.cause) == (INCONCLUSIVE, CLOCK_OR_POWER)
    assert verdict.reason.startswith(f"{SLOWER if mean > 0 else FASTER} in time, the same in cycles: +0.00 %")
    assert decide_one(Pair(time, replace(cycles, mean=mean), -mean / 2.5), ONE).cause == CODE


def test_a_pair_has_a_difference_or_says_why_not():
    verdict = decide({"x": Pair(refused=MISSING, reason="not measured")}, ONE)["x"]
    assert (verdict.kind, verdict.reason, verdict.difference, verdict.interval) == (MISSING, "not measured", None, None)
    for wrong in ({}, {"refused": MISSING}, {"time": made(0.0), "refused": MISSING, "reason": "x"},
                  {"refused": SLOWER, "reason": "x"}):  # fmt: skip
        with pytest.raises(ValueError, match="pair"):
            Pair(**wrong)


def test_slower_counts_once_it_is_confirmed():
    pairs = {"a": Pair(made(0.04)), "b": Pair(made(0.05)), "c": Pair(made(0.05)), "d": Pair(made(0.0))}
    first = decide(pairs, ONE)
    assert to_confirm(first) == ["a", "b", "c"]
    final = confirm(first, {"a": Pair(made(0.031)), "b": Pair(made(0.001)), "d": Pair(made(0.9))}, ONE)
    assert (final["a"].kind, final["a"].confirmed) == (SLOWER, True)
    assert final["a"].difference == pytest.approx(math.expm1(0.031))
    assert (final["b"].kind, final["b"].confirmed) == (INCONCLUSIVE, False)
    assert "+5.13 % at first, then +0.10 %" in final["b"].reason
    assert (final["c"].kind, final["c"].confirmed) == (INCONCLUSIVE, False) and "could not be" in final["c"].reason
    assert final["d"] == first["d"] and to_confirm(final) == []


def test_the_mean_of_a_suite_is_taken_process_by_process():
    """A shift that a process gives to all its cases does not average out over cases."""
    cases = [{0: 0.01, 1: 0.02, 2: 0.03}, {0: 0.03, 1: 0.04, 2: 0.05}]
    mean = suite_mean(cases, 3)
    assert mean.units == pytest.approx((0.02, 0.03, 0.04)) and mean.freedom == 2
    assert isinstance(decide_one(Pair(mean), ONE), Verdict)
