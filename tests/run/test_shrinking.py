"""A generated case that fails is made smaller while the same rule fails."""

from dataclasses import replace

import pytest
from fakes.report_runs import accuracy, failed, incorrect, ok

from attnbench.case import Case, forward_flops
from attnbench.records.record import Check
from attnbench.run.shrinking import ATTEMPTS, BUDGET_S, Shrinking, alike, simpler
from attnbench.suite.load import with_generated

JOBS = with_generated(None, 60, 5).jobs()


def shrunk(fails, job, now=lambda: 0.0):
    """What a course comes to where `fails` says of a case whether it comes out wrong."""
    course, records, posed = Shrinking(now), [], []
    for jobs, backends in course.stages([job], ["mine"], records):
        for one in jobs:
            posed.append(one)
            make = incorrect if fails(one.case) else lambda name, **fields: ok(name, None, **fields)
            records += [make(name, **one.case.to_dict()) for name in backends]
    return course.found, posed


def a_job(fits):
    return next(job for job in JOBS if fits(job.case))


def test_a_tail_is_shrunk_to_one_key():
    job = a_job(lambda case: case.seqlen_k % 64 and case.num_heads > 1 and case.batch > 1 and case.seqlen_k > 100)
    (found,), posed = shrunk(lambda case: case.seqlen_k % 64 != 0, job)
    small = found.smallest.case
    assert (small.batch, small.num_heads, small.seqlen_q, small.seqlen_k, small.head_dim) == (1, 1, 1, 1, 16)
    assert small.inputs == "normal" and small.softmax_scale is None and not small.causal
    assert found.first.case == job.case and found.attempts == len(posed) - 1 <= ATTEMPTS


def test_what_the_failure_needs_stays():
    job = a_job(lambda case: case.causal and case.num_heads > case.num_heads_kv and case.seqlen_k > 64)
    (found,), _ = shrunk(lambda case: case.causal and case.num_heads > case.num_heads_kv and case.seqlen_k > 10, job)
    small = found.smallest.case
    assert small.causal and small.num_heads > small.num_heads_kv == 1 and 10 < small.seqlen_k <= 20
    assert (small.batch, small.head_dim) == (1, 16)


def test_it_ends_with_the_time_it_has():
    clock = iter(range(0, 10**6, int(BUDGET_S / 3)))
    (found,), posed = shrunk(lambda case: True, a_job(lambda case: case.seqlen_k > 200), lambda: next(clock))
    assert len(posed) <= 5 and found.attempts == len(posed) - 1


def test_nothing_is_posed_where_nothing_fails():
    found, posed = shrunk(lambda case: False, JOBS[0])
    assert not found and len(posed) == 1


@pytest.mark.parametrize(("kind", "attempts"), [("timeout", 0), ("crash", 1)])
def test_a_hang_is_not_posed_again_and_again(kind, attempts):
    course, records, posed = Shrinking(), [], 0
    for jobs, _ in course.stages(JOBS[:1], ["mine"], records):
        posed += 1
        records += [failed("mine", kind, "it ended", **job.case.to_dict()) for job in jobs]
    assert (posed > 1) == bool(attempts) == bool(course.found)


def test_only_generated_cases_are_shrunk():
    found, posed = shrunk(lambda case: True, replace(JOBS[0], group="mine"))
    assert not found and len(posed) == 1


def test_another_rule_is_another_failure():
    wrong = incorrect("mine", seqlen=64)
    other = replace(wrong, accuracy=replace(accuracy(), checks=(Check("non-finite outputs", 1, 0, False),)))
    assert alike(wrong, wrong) and not alike(wrong, other) and not alike(wrong, ok("mine", None))
    crash, hang = (failed("mine", kind, "it ended") for kind in ("crash", "timeout"))
    assert alike(crash, crash) and not alike(crash, hang) and not alike(crash, wrong)


@pytest.mark.parametrize("job", JOBS[:20], ids=lambda job: job.case.key)
def test_what_is_simpler_is_another_case_with_no_more_to_compute(job):
    made = list(simpler(job.case))
    assert made and job.case not in made
    for case in made:
        assert forward_flops(case) <= forward_flops(job.case) or case == Case.make(**{**_fields(job), "causal": False})


def _fields(job):
    return {name: getattr(job.case, name) for name in job.case.__dataclass_fields__}
