"""What records say of themselves: intervals, other work, two speeds; and what that forbids or moves."""

import math
import random
from dataclasses import replace

import numpy
import pytest
from fakes.compared_runs import turns, write_run
from fakes.report_runs import LAPTOP, ok
from scipy.stats import norm

from attnbench.compare.baseline import read_sides
from attnbench.compare.comparison import compare
from attnbench.compare.differences import Levels, against_runs, suite_against_runs
from attnbench.compare.doubts import disturbance, own_errors, speeds
from attnbench.compare.gate import judge_gate
from attnbench.compare.margin import Margin
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, SAME, SLOWER
from attnbench.records.measurement import Block, Conditions, Measurement

CPU = {**LAPTOP, "device": "cpu", "machine": "fedcba9876543210"}
LENGTHS = (64, 128)


def timed(samples, **fields):
    blocks = fields.pop("blocks", None) or (Block(tuple(samples), len(samples), conditions=fields.pop("seen", None)),)
    converged = fields.pop("converged", True)
    made = {"unmet": () if converged else ("interval of the median +-100.00%, deviation 105.00%",)}
    return Measurement(blocks, fields.pop("timer", "cpu"), "sustained", "cold", 1, converged, **made, **fields)


def quiet(level_s, seed, spread=0.01, count=100):
    """A level and a jitter that no batch is without."""
    dice = random.Random(seed)
    return [level_s * math.exp(dice.gauss(0, spread)) for _ in range(count)]


def run(path, *measurements):
    """A run of two cases, each with its measurement."""
    records = [replace(ok("naive", 1.0, seqlen=seqlen), measurement=one) for seqlen, one in zip(LENGTHS, measurements)]
    return write_run(path, records, CPU)


def stored(folder, spread=0.005, runs=3, **fields):
    """A baseline of two cases of 1 ms whose runs lie `spread` apart; fields: of every measurement."""
    for place in range(runs):
        level = 1e-3 * (1 + spread * (place - (runs - 1) / 2))
        run(folder / str(place), *(timed(quiet(level, 10 * place + case), **fields) for case in range(2)))
    return folder


def verdicts(base, new, margin=0.05):
    comparison = compare(*read_sides(base, new), Margin(margin))
    return comparison, [cell.verdict for cell in comparison.cells], judge_gate(comparison, strict=False).status


def half_slow(factor=4.3, share=0.55, count=100):
    fast = round((1 - share) * count)
    return [1e-3 * (1 if place < fast else factor) * (1 + place % 7 * 1e-3) for place in range(count)]


def test_a_record_that_is_half_fast_and_half_slow_is_no_regression(tmp_path):
    """Its own interval says +-100 %; the median of one half says +330 %."""
    base = stored(tmp_path / "base")
    for flags in ((), ("cpu_loaded", "cpu_stolen")):
        new = run(tmp_path / f"new{len(flags)}", timed(half_slow(), converged=False, flags=flags),
                  timed(quiet(1e-3, 99)))  # fmt: skip
        comparison, (one, other), status = verdicts(base, new)
        assert (one.kind, other.kind, status) == (INCONCLUSIVE, SAME, 0)
        assert one.time.low < 0.01 < 1 < one.time.high and comparison.suite.kind == SAME and comparison.in_doubt == 1


def test_an_interval_that_reaches_down_to_the_baseline_is_heeded_without_any_flag(tmp_path):
    """Three levels in time, so that there are no two speeds: batches disagree, and that is all that is known."""
    levels = [1.0] * 40 + [1.5] * 20 + [2.0] * 40
    samples = [1e-3 * level * (1 + place % 7 * 1e-3) for place, level in enumerate(levels)]
    base = stored(tmp_path / "base")
    for converged in (True, False):
        new = run(tmp_path / f"new{converged}", timed(samples, converged=converged), timed(quiet(1e-3, 99)))
        comparison, (one, _), status = verdicts(base, new)
        assert (one.kind, status) == (INCONCLUSIVE, 0) and one.difference == pytest.approx(0.5, abs=0.02)
        assert comparison.in_doubt == 0 and comparison.suite.kind == INCONCLUSIVE


def test_a_quiet_ten_percent_is_still_found(tmp_path):
    for converged in (True, False):
        base = stored(tmp_path / f"base{converged}", converged=converged)
        new = run(tmp_path / f"new{converged}",
                  *(timed(quiet(1.1e-3, 90 + case), converged=converged) for case in range(2)))  # fmt: skip
        assert [one.kind for one in verdicts(base, new)[1]] == [SLOWER, SLOWER]


OTHER_WORK = {
    "load": {"flags": ("cpu_loaded",), "seen": Conditions(3, load=4.6)},
    "a slow tenth": {},
}


def disturbed(samples, name):
    slow = [sample * 8 if name == "a slow tenth" and place % 9 == 8 else sample for place, sample in enumerate(samples)]
    return timed(slow, **OTHER_WORK[name])


@pytest.mark.parametrize("name", OTHER_WORK)
@pytest.mark.parametrize(("factor", "kind"), [(1.3, SLOWER), (1.0, SAME), (0.7, FASTER)])
def test_other_work_only_adds_time(name, factor, kind, tmp_path):
    """A disturbed NEW can be faster, never slower or the same; a disturbed baseline can be slower than, never else."""
    new_level, said = quiet(factor * 1e-3, 5), {"load": "cpu_loaded (load 4.6)", "a slow tenth": "a tenth of its calls"}
    base = stored(tmp_path / "base")
    new = run(tmp_path / "new", disturbed(new_level, name), timed(quiet(1e-3, 6)))
    _, (one, _), status = verdicts(base, new)
    assert one.kind == (FASTER if kind == FASTER else INCONCLUSIVE) and status == 0
    assert (f"NEW says of itself: {said[name]}" in one.reason) == (kind != FASTER)
    for place in range(3):
        run(tmp_path / "busy" / str(place), *(disturbed(quiet(1e-3, place + 10 * case), name) for case in range(2)))
    _, (one, _), status = verdicts(tmp_path / "busy", run(tmp_path / "again", timed(new_level), timed(quiet(1e-3, 7))))
    assert one.kind == (SLOWER if kind == SLOWER else INCONCLUSIVE) and status == (1 if kind == SLOWER else 0)
    assert ("the baseline says of itself: " in one.reason) == (kind != SLOWER)


def test_disturbed_stored_measurements_are_left_out_where_enough_are_there(tmp_path):
    base = stored(tmp_path / "base")
    run(base / "4", *(disturbed(quiet(2e-3, case), "load") for case in range(2)))
    comparison, found, _ = verdicts(base, run(tmp_path / "new", *(timed(quiet(1e-3, 50 + case)) for case in range(2))))
    assert [one.kind for one in found] == [SAME, SAME]
    assert "disturbed by other work while it was measured (2 measurements)" in comparison.left_out


def test_on_a_gpu_other_work_of_the_host_is_nothing():
    assert disturbance(timed([1e-3] * 30, timer="events", flags=("cpu_loaded",))) == ""
    assert disturbance(timed([1e-3] * 30, flags=("cpu_loaded",))) == "cpu_loaded"


def test_far_slower_holds_on_an_overloaded_machine_up_to_its_load(tmp_path):
    """4.6 on two CPUs may well have taken 2.3 times as long; ten times is the code."""
    base = stored(tmp_path / "base", runs=1)
    for factor, status in ((3.0, 3), (10.0, 1)):
        new = run(tmp_path / str(factor), *(disturbed(quiet(factor * 1e-3, case), "load") for case in range(2)))
        assert verdicts(base, new)[2] == status


@pytest.mark.parametrize("order", ["alternating", "one after the other"])
def test_two_speeds_are_shown_and_are_no_verdict(order, tmp_path):
    samples = [4e-3, 8e-3] * 50 if order == "alternating" else [4e-3] * 50 + [8e-3] * 50
    base = stored(tmp_path / "base")
    for place, level in enumerate((5.9e-3, 6e-3, 6.1e-3)):
        run(base / str(3 + place), *(timed(quiet(level, place + 10 * case)) for case in range(2)))
    new = run(tmp_path / "new", timed(samples), timed(quiet(1e-3, 8)))
    _, (one, _), _ = verdicts(base, new)
    assert one.kind == INCONCLUSIVE and "NEW has two speeds, 4.000 ms and 8.000 ms" in one.reason
    other = stored(tmp_path / "other")
    new = run(tmp_path / "slow", timed([sample / 3 for sample in samples]), timed(quiet(1e-3, 9)))
    _, (one, _), status = verdicts(other, new)
    assert (one.kind, status) == (INCONCLUSIVE, 0)
    if order == "alternating":
        said = "slower by its median, but NEW has two speeds, 1.333 ms and 2.667 ms, and no median between them"
        assert one.reason == said


def test_two_speeds_count_by_process():
    """Processes that differ are what replication is for; two speeds in most of them are not."""
    apart = [Block((level,) * 40, 40, process) for process, level in enumerate((1e-3, 2e-3, 1e-3))]
    assert speeds(timed((), blocks=tuple(apart))) == ""
    both = [Block((1e-3, 2e-3) * 20, 40, process) for process in range(2)]
    assert speeds(timed((), blocks=(*both, Block((1e-3,) * 40, 40, 2)))) == "two speeds, 1.000 ms and 2.000 ms"


def test_two_speeds_of_sides_that_took_turns(tmp_path):
    def side(name, samples):
        made = turns(name, 1e-3)
        blocks = tuple(replace(block, samples_s=samples, sample_count=len(samples)) for block in made["blocks"])
        one = timed((), blocks=blocks, timer="events", **made["timing"])
        return write_run(tmp_path / name, [replace(ok("mine", 1.0), measurement=one)], CPU)

    _, (one,), _ = verdicts(side("base", (1e-3,) * 12), side("head", (1e-3, 3e-3) * 6))
    assert one.kind == INCONCLUSIVE and "NEW has two speeds, 1.000 ms and 3.000 ms" in one.reason


def test_own_errors_are_the_intervals():
    samples = quiet(1e-3, 3, spread=0.05, count=200)
    (own,) = own_errors([timed(samples)])
    medians = sorted(numpy.median(numpy.array(samples).reshape(10, 20), axis=1))
    low, high = medians[1], medians[8]  # David and Nagaraja: ranks 2 and 9 of ten
    middle = numpy.median(samples)
    assert (own.down, own.up) == pytest.approx((math.log(middle / low), math.log(high / middle)))
    coverage = 1 - 2 * (1 + 10) / 2**10
    assert own.standard_error == pytest.approx(math.log(high / low) / 2 / norm.ppf((1 + coverage) / 2))


def test_own_errors_without_an_interval():
    few = [1e-3] * 5 + [2e-3] * 6 + [3e-3] * 4
    converged, not_so = own_errors([timed(few), timed(few, converged=False)])
    assert (converged.down, converged.up, converged.standard_error) == (0, 0, 0)
    assert (not_so.down, not_so.up) == pytest.approx((math.log(2), math.log(1.5)))


def test_what_a_host_took_may_be_all_there_is():
    (own,) = own_errors([timed([1e-3] * 5, seen=Conditions(3, stolen=0.2))])
    assert own.down == pytest.approx(-math.log(0.8)) and own.up == 0


def test_own_parts_move_the_bounds_and_the_p_values():
    base, new = (0.0, 0.001, -0.001), (0.1,)
    plain = against_runs({"x": Levels(base, new)})["x"]
    moved = against_runs({"x": Levels(base, new, 0.0, 0.03, 0.02)})["x"]
    assert (moved.low, moved.high) == pytest.approx((plain.low - 0.03, plain.high + 0.02))
    for margin in numpy.linspace(0, 0.12, 61):
        assert (moved.p_above(margin) < 0.05) == (moved.low > margin)
    floored = against_runs({"x": Levels(base, new, 0.01**2)})["x"]
    assert floored.standard_error == pytest.approx(0.01 * math.sqrt(4 / 3))
    suite = suite_against_runs([Levels(base, new, 0.0, 0.03, 0.02), Levels(base, new)])
    alone = suite_against_runs([Levels(base, new), Levels(base, new)])
    assert (suite.low, suite.high) == pytest.approx((alone.low - 0.015, alone.high + 0.01))
