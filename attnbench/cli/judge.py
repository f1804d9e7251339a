"""`attnbench judge`: from the command's options to a question, and the verdict in a few lines or as one JSON object."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.group import terminated_like_interrupted
from attnbench.errors import UserError
from attnbench.judge.judgement import Judged, Judgement
from attnbench.judge.question import JudgeError, Question
from attnbench.judge.runner import RIGHT, judge
from attnbench.records.record import Record
from attnbench.run.runner import Progress, Silent
from attnbench.screen import INDENT, shell_command, wrapped

if TYPE_CHECKING:
    from rich.status import Status

    from attnbench.suite.suite import Job


class Refused(UserError):
    """A question for which nothing ran, in one line."""

    def __init__(self, judged: Judged):
        super().__init__(judged.judgement.reason)
        self.status = judged.status


def judge_verb(candidate: str | None, mcp: bool, as_json: bool, strict: bool, **options: Any) -> int:
    """The exit status. Raises a user error for a mistake."""
    if mcp:
        if candidate is not None or as_json:
            raise JudgeError("--mcp serves any candidate that an agent names; leave out FILE and --json")
        from attnbench.judge.served import serve

        serve()
        return RIGHT
    if candidate is None:
        raise JudgeError("name a candidate: FILE, or FILE:function")
    return judge_command(asked(candidate, **options), as_json, strict)


def asked(candidate: str, interpret: str | None, timeout: float, budget: float | None, **options: Any) -> Question:
    return Question(candidate, interpret=interpret or "", timeout_s=timeout, budget_s=budget, **options)


def judge_command(question: Question, as_json: bool, strict: bool) -> int:
    """The exit status. Raises Refused where nothing ran, once the JSON object says so."""
    with terminated_like_interrupted():
        judged = judge(question, progress(), strict)
    if as_json:
        click.echo(judged.judgement.to_json())
    if judged.refused:
        raise Refused(judged)
    if not as_json:
        click.echo("\n".join(verdict_lines(judged)))
    return judged.status


def verdict_lines(judged: Judged) -> Iterator[str]:
    """The verdict, what led to it, and what to do next, in lines that fit the terminal."""
    told = judged.judgement
    yield from wrapped(f"{told.verdict}: {told.candidate} on suite {told.suite}, {told.trust}, {told.seconds:.1f} s")
    yield from _indented(told.reason)
    for failed in told.failed:
        yield from _indented(f"likely cause: {failed.cause}" if failed.rule and failed.cause else "")
    for line in judged.error_map:
        yield from _indented(line)
    for note in judged.notes:
        yield from _indented(f"note: {note}")
    if told.next is not None:
        yield from shell_command(shlex.split(told.next), f"{INDENT}again: ")
    yield from _indented(f"next: {advice(told)}")
    yield from _indented(f"records: {told.run}")


def _indented(text: str) -> list[str]:
    return wrapped(INDENT + text, 2 * INDENT) if text else []


def advice(told: Judgement) -> str:
    """What to try next."""
    if told.failed:
        return f"mend {told.failed[0].case_key}, where judging stopped, and judge again"
    return {
        "promoted": "make it the incumbent: --plugin FILE:NAME --against NAME",
        "slower": "it is right; make it faster",
        "correct": "it is right; a difference this small needs a larger change, or a quieter machine",
        "undecided": "judge again on a quieter machine, or with more samples (the suite's min_samples)",
    }.get(told.verdict, "mend what is named above, and judge again")


def progress() -> Progress:
    """A line on a terminal's stderr, since stdout has the verdict; nothing elsewhere."""
    return Watching() if sys.stderr.isatty() else Silent()


class Watching:
    """One line on what is going on, which is gone at the end."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._done = 0

    def begin(self, records: int, taken: int, todo: object) -> None:
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("judging", spinner="line")
            self._status.start()

    def phase(self, job: Job, backend: str, phase: str) -> None:
        if self._status is not None:
            self._status.update(f"{self._done} done  {job.case.key}  {backend}  {phase}")

    def record(self, record: Record) -> None:
        self._done += 1

    def output(self, backend: str, text: str) -> None: ...

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()
