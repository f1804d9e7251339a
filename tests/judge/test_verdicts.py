"""What each verdict means, held against records made by hand; no kernel runs."""

import itertools
import math
import random
from pathlib import Path

import pytest
from fakes.report_runs import failed, incorrect, ok, unsupported
from scipy.special import stdtrit

from attnbench.compare.margin import Margin
from attnbench.judge import runner
from attnbench.judge.course import JudgeCourse, cheapest_first, cost, spread
from attnbench.judge.question import Question
from attnbench.judge.speed import QUANTILE, Speed, grouped, speed_of
from attnbench.judge.twin_backends import BACKENDS
from attnbench.judge.twins import SPEC, twin_name
from attnbench.messages import Ready
from attnbench.records.measurement import Block
from attnbench.run.process import RunError
from attnbench.run.runner import Outcome, Request, Silent
from attnbench.suite.load import load_suite


def speed(value, low, high, noise=None):
    return Speed("cpu_flash", value, low, high, 4, Margin(noise_floor=noise))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (speed(1.5, 1.4, 1.6), "promoted"),
        (speed(1.02, 1.011, 1.03), "promoted"),
        (speed(1.02, 1.009, 1.03), "correct"),  # within the margin of 1 %
        (speed(1.05, 1.03, 1.07, noise=0.02), "correct"),  # within twice the noise floor
        (speed(1.10, 1.06, 1.12, noise=0.02), "promoted"),
        (speed(0.97, 0.96, 0.98), "slower"),
        (speed(0.97, 0.96, 0.98, noise=0.03), "correct"),
        (speed(1.0, 0.995, 1.005), "correct"),
        (speed(1.1, 0.9, 1.3), "undecided"),
    ],
)
def test_the_bound_that_decides(found, verdict):
    assert found.verdict == verdict and "as fast as cpu_flash" in found.reason


def verdict_of(records, found=None, strict=False, **outcome):
    course = JudgeCourse("cpu_flash")
    course.name = "mine"
    course.jobs = {record.case_key: None for record in records}
    made = Outcome(Path("run"), list(records), **outcome)
    own = [record for record in records if record.backend == "mine"]
    return runner._verdict(course, made, own, course.failed(records), found, strict)


def test_every_verdict_has_its_exit_status():
    right = ok("mine", 1e-3)
    cases = [
        ([right], speed(1.5, 1.4, 1.6), "promoted", 0),
        ([right], speed(1.0, 0.995, 1.005), "correct", 0),
        ([right], speed(0.5, 0.4, 0.6), "slower", 1),
        ([right], speed(1.1, 0.9, 1.3), "undecided", 0),
        ([right], None, "undecided", 3),
        ([right, incorrect("mine", seqlen=64)], None, "incorrect", 1),
        ([right, failed("mine", "hazard", "a race", seqlen=64)], None, "incorrect", 1),
        ([right, failed("mine", "crash", "it died", seqlen=64)], None, "error", 3),
        ([right, failed("mine", "unstable", "throttled", seqlen=64)], None, "undecided", 3),
        ([unsupported("mine", "no bf16")], None, "error", 3),
    ]
    for records, found, verdict, status in cases:
        told, reason, ended = verdict_of(records, found)
        assert (told, ended) == (verdict, status) and reason, verdict
    assert verdict_of([right], speed(1.1, 0.9, 1.3), strict=True)[2] == 4
    assert verdict_of([right], incomplete=["the budget was used up"])[::2] == ("undecided", 3)
    assert verdict_of([right], interrupted=True)[::2] == ("undecided", 130)


def test_what_failed_goes_over_what_is_interrupted():
    assert verdict_of([incorrect("mine", seqlen=64)], interrupted=True)[::2] == ("incorrect", 1)


def test_the_incumbent_failing_is_no_fault_of_the_candidate():
    told, reason, status = verdict_of([ok("mine", None), failed("cpu_flash", "oom", "no memory")])
    assert (told, status) == ("undecided", 3) and "no memory" in reason


def request(*plugins):
    return Request(load_suite("quick"), "cpu", Path("run"), Silent(), plugins or ("k.py:mine",))


def ready(given=("mine",), reasons=None):
    return Ready({}, {"mine": None, "yours": None, **(reasons or {})}, ("naive", "cpu_flash"), given)


def test_there_is_one_candidate_that_can_run():
    course = JudgeCourse(None)
    assert course.backends(request(), ready()) == ("naive", "cpu_flash", "mine")
    with pytest.raises(RunError, match="there are 2 backends"):
        course.backends(request("k.py"), ready(("mine", "yours")))
    with pytest.raises(RunError, match="mine cannot run here: no GPU"):
        course.backends(request(), ready(reasons={"mine": "no GPU"}))


def test_the_incumbent_may_be_a_plugin():
    course, records = JudgeCourse("best"), []
    both = Ready({}, {"mine": None, "best": None}, ("naive", "cpu_flash"), ("mine", "best"))
    assert course.backends(request("k.py", "best.py:best"), both) == ("best", "mine")
    jobs = [job for job in load_suite("quick").jobs() if job.group == "gqa"]
    for (job,), names in course.stages(jobs, (), records):
        records += [ok(name, 1e-3 if job.time else None, **job.case.to_dict()) for name in names]
    assert [record.backend for record in records] == ["mine", "best", "naive", "naive[again]", "mine"]
    assert course.null == "naive"
    with pytest.raises(RunError, match='unknown backend "bets"'):
        JudgeCourse("bets").backends(request(), ready())


def test_it_stops_at_the_first_case_that_fails_and_times_nothing():
    jobs = load_suite("quick").jobs()
    course, records = JudgeCourse(None), []
    course.backends(request(), ready())
    posed = []
    for (job,), (name,) in course.stages(jobs, (), records):
        posed.append(job)
        assert name == "mine" and not job.time
        fields = {**job.case.to_dict()}
        records.append(incorrect("mine", **fields) if len(posed) == 5 else ok("mine", None, **fields))
    assert len(posed) == 5 and [job.case.key for job in posed] == [job.case.key for job in cheapest_first(jobs)[:5]]


def test_cheap_cases_come_first_and_probes_before_what_is_alike():
    jobs = load_suite("quick").jobs()
    order = cheapest_first(jobs)
    assert len(order) == len(jobs) and set(order) == set(jobs)
    probes = next(place for place, job in enumerate(order) if job.group == "probes")
    assert sum(map(cost, order[:probes])) < 0.3 * sum(map(cost, jobs)) and order[-1].case.seqlen_q >= 1024
    assert {job.case.causal for job in order[:8]} == {True, False}


def test_the_incumbent_is_the_fastest_stock_backend_and_faces_itself():
    jobs = [job for job in load_suite("quick").jobs() if job.group == "dense"]
    course, records = JudgeCourse(None), []
    course.backends(request(), ready())
    faced = {}
    for stage, names in course.stages(jobs, (), records):
        (job,) = stage
        assert (course.further == (SPEC,)) == ("cpu_flash" in names and "mine" in names)
        faced.setdefault(tuple(names), []).append(job)
        speeds = {"naive": 2e-3, "cpu_flash": 1e-3, "mine": 3e-3, twin_name("cpu_flash"): 1e-3}
        records += [ok(name, speeds[name] if job.time else None, **job.case.to_dict()) for name in names]
    assert course.against == "cpu_flash"
    assert len(faced["mine",]) == len(jobs) and len(faced["naive", "cpu_flash"]) == 1
    alone, null = faced["cpu_flash", "mine"], faced["cpu_flash", "cpu_flash[again]", "mine"]
    assert len(null) == 3 and len(alone) + len(null) == len(jobs) and not course.failed(records)


def test_twins_are_the_stock_backends():
    assert {"naive[again]", "cpu_flash[again]"} <= {twin.name for twin in BACKENDS}
    assert all(twin.name.endswith("[again]") for twin in BACKENDS)


def test_spread_takes_both_ends():
    assert spread([1, 2, 3, 4, 5, 6, 7], 3) == [1, 4, 7] and spread([1, 2], 3) == [1, 2]


def test_the_trust_that_is_told_is_the_one_that_holds():
    asked = Question("a.py:f", device="cpu")
    assert (asked.trust, asked.why_trusted) == ("untrusted", "")
    assert "from within" in Question("a.py:f", interpret="auto").why_trusted
    assert "the CPU only" in Question("a.py:f", device="cuda:0").why_trusted
    trusted = Question("a.py:f", trusted=True)
    assert (trusted.trust, trusted.why_trusted) == ("trusted", "")


def timed_in_turns(speeds, rounds, noise=0.0, **fields):
    """Records of backends that took turns in so many rounds of ABBA. speeds: how many times as fast as 1 ms each is."""
    dice, starts = random.Random(5), itertools.count(1e9, 0.1)
    blocks = {name: [] for name in speeds}
    arms = {name: str(place) for place, name in enumerate(speeds, start=1)}
    for number in range(rounds):
        for name in (*speeds, *reversed(speeds)):
            time_s, start_s = 1e-3 / speeds[name] * math.exp(noise * dice.gauss(0, 1)), next(starts)
            blocks[name].append(Block((time_s,) * 3, 3, 0, number, arms[name], start_s, start_s + 0.1))
    timing = {"together": tuple(speeds), "order_seed": 3}
    return [ok(name, 1e-3, timing={**timing, "blocks": tuple(blocks[name])}, **fields) for name in speeds]


def both(ratio):
    return {"cpu_flash": 1.0, "mine": ratio}


def test_the_speedup_is_the_geometric_mean_of_paired_rounds():
    records = [*timed_in_turns(both(2.0), 5, 0.01, seqlen=64), *timed_in_turns(both(0.5), 9, 0.01, seqlen=128)]
    found = speed_of(records, "mine", "cpu_flash", "cpu_flash")
    assert found.value == pytest.approx(1.0, abs=0.01) and found.low < 1 < found.high and found.cases == 2
    assert found.margin.noise_floor is None and found.high / found.low < 1.05


def test_cases_of_too_few_rounds_are_left_out_and_told():
    records = [*timed_in_turns(both(2.0), 6, 0.01), *timed_in_turns(both(2.0), 2, seqlen=64)]
    found = speed_of(records, "mine", "cpu_flash", "cpu_flash")
    assert (found.cases, found.left_out) == (1, 1) and "1 case of too few rounds left out" in found.reason
    assert speed_of(timed_in_turns(both(2.0), 2), "mine", "cpu_flash", "cpu_flash") is None
    assert speed_of([ok("mine", 1e-3), ok("cpu_flash", 2e-3)], "mine", "cpu_flash", "cpu_flash") is None  # not in turns


def test_a_gain_within_what_the_incumbent_differs_from_itself_is_none():
    assert speed_of(timed_in_turns(both(1.05), 8, 0.001), "mine", "cpu_flash", "cpu_flash").verdict == "promoted"
    records = timed_in_turns({**both(1.05), twin_name("cpu_flash"): 1.04}, 8, 0.001)
    found = speed_of(records, "mine", "cpu_flash", "cpu_flash")
    assert found.margin.noise_floor == pytest.approx(0.04, abs=0.003) and found.verdict == "correct"
    assert "noise floor 3." in found.reason or "noise floor 4" in found.reason


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Student's t over groups of rounds, two cases, 6 % noise a block."""
    covered = 0
    for seed in range(200):
        dice = random.Random(seed)
        cases = [[math.log(1.2) + 0.06 * dice.gauss(0, 1) for _ in range(rounds)] for rounds in (4, 7)]
        found = grouped(cases)
        reach = stdtrit(found.freedom, QUANTILE) * found.standard_error
        covered += abs(found.mean - math.log(1.2)) < reach
    assert 180 <= covered <= 199
