"""The command that poses one case again, with the same secrets: for a person, or for the next turn of a loop."""

from __future__ import annotations

from collections.abc import Mapping

from attnbench.case import FIELDS
from attnbench.judge.question import Prepared
from attnbench.messages import UNTRUSTED
from attnbench.records.record import Record
from attnbench.settings import Checks
from attnbench.suite.axes import axis_words
from attnbench.suite.suite import GROUP, Job, field_text


def repeat_words(asked: Prepared, record: Record, job: Job, timed: bool) -> list[str]:
    """A case of default checks needs no suite; another is chosen from it. timed: it failed while it was timed."""
    question = asked.question
    if job.checks == Checks() and not timed:
        case = axis_words(job.case)
    else:
        case = [question.suite, *(word for item in _only(asked, job).items() for word in ("--only", "=".join(item)))]
    words = ["attnbench", "run", *case, "--plugin", question.candidate, "--backend", record.backend]
    if question.interpret:
        words.append("--interpret" if question.interpret == "auto" else f"--interpret={question.interpret}")
    elif question.device != "auto":
        words += ["--device", question.device]
    if question.trust == UNTRUSTED:
        words.append("--untrusted")
    if not timed:
        words.append("--no-time")
    return [*words, "--timeout", f"{question.timeout_s:g}", "--seed", str(asked.seed)]


def _only(asked: Prepared, job: Job) -> Mapping[str, str]:
    """Of the fields, as many as it takes to keep this case alone."""
    others = [case for group, case in asked.suite.kept() if group.name == job.group and case != job.case]
    chosen = {GROUP: job.group}
    while others:
        name = max(FIELDS, key=lambda name: sum(getattr(other, name) != getattr(job.case, name) for other in others))
        chosen[name] = field_text(job.case, name)
        others = [other for other in others if getattr(other, name) == getattr(job.case, name)]
    return chosen
