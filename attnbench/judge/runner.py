"""Asks the question: one run, of which the verdict follows."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from attnbench.errors import UserError
from attnbench.judge.course import JudgeCourse
from attnbench.judge.judgement import Failed, Judged, Judgement, Speedup, Verdict, json_number
from attnbench.judge.question import Prepared, Question, prepared
from attnbench.judge.repeat import repeat_words
from attnbench.judge.speed import FEWEST_ROUNDS, SLOWER, UNDECIDED, Speed, speed_of
from attnbench.messages import TRUSTED
from attnbench.plugins import plain_spec
from attnbench.records.record import LIKELY_CAUSE, Record
from attnbench.report.causes import WRONG, first_line, size
from attnbench.run.process import RunError
from attnbench.run.runner import Outcome, Progress, run_suite

RIGHT, BAD, INCOMPLETE, INCONCLUSIVE, INTERRUPTED = 0, 1, 3, 4, 130
# An error of this kind is the machine's.
UNSTABLE = "unstable"


def judge(question: Question, progress: Progress, strict: bool = False) -> Judged:
    """The verdict, whatever the candidate does. strict: exit status 4 where its speed cannot be told."""
    started = time.monotonic()
    course = JudgeCourse(question.against)
    try:
        asked = prepared(question, course, progress)
    except UserError as error:
        return _refused(question, error, error.status, started)
    try:
        outcome = run_suite(asked.request)
    except RunError as error:  # what a worker could not import, or could not find in it
        return _refused(question, error, INCOMPLETE, started)
    except UserError as error:
        return _refused(question, error, error.status, started)
    return _judged(asked, course, outcome, started, strict)


def _refused(question: Question, error: UserError, status: int, started: float) -> Judged:
    reason = first_line(str(error))
    return Judged(_judgement(question, "error", reason, started), status)


def _judged(asked: Prepared, course: JudgeCourse, outcome: Outcome, started: float, strict: bool) -> Judged:
    records = [record for record in outcome.records if record.backend == course.name]
    failed = course.failed(outcome.records)
    speed = None
    if not failed and course.against is not None and not outcome.interrupted:
        speed = speed_of(outcome.records, course.name, course.against, course.null)
    verdict, reason, status = _verdict(course, outcome, records, failed, speed, strict)
    worst = min(failed, key=lambda record: size(record.case), default=None)
    judgement = _judgement(
        asked.question,
        verdict,
        reason,
        started,
        failed=tuple(map(_failed, failed)),
        speedup=None if speed is None else _speedup(speed),
        next=None
        if worst is None
        else shlex.join(repeat_words(asked, worst, course.jobs[worst.case_key], course.timing)),
        run=str(outcome.path),
    )
    error_map = worst.accuracy.error_map if worst is not None and worst.accuracy is not None else ()
    notes = (asked.question.why_trusted, *outcome.suspicions, *outcome.notes)
    return Judged(judgement, status, tuple(filter(None, notes)), error_map)


def _verdict(
    course: JudgeCourse,
    outcome: Outcome,
    records: Sequence[Record],
    failed: Sequence[Record],
    speed: Speed | None,
    strict: bool,
) -> tuple[Verdict, str, int]:
    """The verdict, why, and the exit status: what is wrong goes over what failed, and that over what is missing."""
    wrong = [record for record in failed if (record.kind or record.status) in WRONG]
    if wrong:
        return "incorrect", _why(wrong[0]), BAD
    if outcome.interrupted:
        return UNDECIDED, "interrupted", INTERRUPTED
    if failed:
        verdict: Verdict = UNDECIDED if failed[0].kind == UNSTABLE else "error"
        return verdict, _why(failed[0]), INCOMPLETE
    if outcome.incomplete:
        return UNDECIDED, "; ".join(outcome.incomplete), INCOMPLETE
    if all(record.status == "unsupported" for record in records):
        reasons = "; ".join(dict.fromkeys(first_line(record.reason) for record in records))
        return "error", f"it takes none of {len(course.jobs)} cases: {reasons}", INCOMPLETE
    if course.untimed:
        return "correct", f"right in {_taken(records)}; {course.untimed}", RIGHT
    if speed is None:
        return UNDECIDED, _not_compared(course, outcome), INCOMPLETE
    status = {SLOWER: BAD, UNDECIDED: INCONCLUSIVE if strict else RIGHT}.get(speed.verdict, RIGHT)
    return speed.verdict, f"right in {_taken(records)}; {speed.reason}", status


def _again(asked: Prepared, course: JudgeCourse, record: Record) -> str:
    return shlex.join(repeat_words(asked, record, course.jobs[record.case_key], course.timing))


def _taken(records: Sequence[Record]) -> str:
    """`31 cases, 4 not taken`."""
    of = {record.case_key: record.status for record in records}
    taken = sum(status == "ok" for status in of.values())
    return f"{taken} cases" + (f", {len(of) - taken} not taken" if taken < len(of) else "")


def _not_compared(course: JudgeCourse, outcome: Outcome) -> str:
    """Why a right candidate has no speedup."""
    if course.against is None:
        return "no stock backend takes a case that it was to be timed on; name one with --against"
    why = next((record for record in reversed(outcome.records) if record.backend == course.against), None)
    said = f": {why.status}: {first_line(why.reason)}" if why is not None and why.reason else ""
    return f"no case was timed with both it and {course.against}, in {FEWEST_ROUNDS} rounds at least{said}"


def _why(record: Record) -> str:
    """In one line, without the likely cause, which has a key of its own."""
    what = "" if record.status == "incorrect" else f"{record.kind}: "
    return f"{record.case_key}: {what}{first_line(record.reason).partition(LIKELY_CAUSE)[0]}"


def _failed(record: Record) -> Failed:
    check = next(iter(record.accuracy.failures), None) if record.accuracy is not None else None
    return Failed(
        case_key=record.case_key,
        rule=None if check is None else check.rule,
        value=None if check is None else json_number(check.value),
        limit=None if check is None else json_number(check.limit),
        place="" if check is None else check.where,
        cause=record.likely_cause if record.status == "incorrect" else first_line(record.reason),
        kind=record.kind or record.status,
    )


def _speedup(speed: Speed) -> Speedup:
    return Speedup(against=speed.against, geomean=speed.value, low=speed.low, high=speed.high)


def _trust(question: Question) -> str:
    """In which mode it was judged, or would have been: a wrong name of a device says nothing of that."""
    try:
        return question.trust
    except UserError:
        return TRUSTED


def _judgement(question: Question, verdict: Verdict, reason: str, started: float, **more: object) -> Judgement:
    values = {"failed": (), "speedup": None, "next": None, "run": None, **more}
    return Judgement.model_validate(
        {
            "candidate": plain_spec(question.candidate),
            "suite": question.suite,
            "trust": _trust(question),
            "verdict": verdict,
            "reason": reason,
            "seconds": round(time.monotonic() - started, 3),
            **values,
        }
    )
