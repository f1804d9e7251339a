"""`attnbench run --generate N`: the seed that cases are drawn by, and the smallest failing case at the end."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import click

from attnbench.errors import UserError
from attnbench.records.record import Record
from attnbench.run.runner import Outcome, Progress, Request
from attnbench.run.shrinking import Shrinking, Shrunk
from attnbench.screen import INDENT, shell_command, wrapped
from attnbench.suite.axes import axis_words
from attnbench.suite.generate import MAX_CASES
from attnbench.suite.groups import Match
from attnbench.suite.load import with_generated
from attnbench.suite.suite import Job, Suite
from attnbench.units import count

# A seed that a person can type again.
DRAWN_SEEDS = 10**6


class GenerateError(UserError):
    """A number of cases that cannot be drawn."""


def with_cases(
    suites: Sequence[Suite], number: int | None, seed: int | None, only: Match
) -> tuple[list[Suite], int | None]:
    """The suites with so many generated cases each, or these alone; and the run's seed, which is drawn and told where
    none was given."""
    if number is None:
        return list(suites), seed
    if number > MAX_CASES:
        raise GenerateError(f"--generate {number}: at most {MAX_CASES:,} cases are drawn")
    chosen = secrets.randbelow(DRAWN_SEEDS) if seed is None else seed
    given: Sequence[Suite | None] = suites or (None,)
    made = [with_generated(suite, number, chosen, only) for suite in given]
    if seed is None:
        click.echo(f"note: cases are drawn by seed {chosen}; --seed {chosen} draws them again", err=True)
    return made, chosen


class OnlyPlanned:
    """Shows the run as `shown` does; of the cases that are posed to make a failing one smaller, what is going on."""

    def __init__(self, shown: Progress):
        self._shown, self._begun, self._further = shown, False, False

    def begin(self, records: int, taken: int, todo: Sequence[tuple[Job, Sequence[str]]]) -> None:
        if not self._begun:
            self._shown.begin(records, taken, todo)
        self._begun, self._further = True, self._begun

    def phase(self, job: Job, backend: str, phase: str) -> None:
        self._shown.phase(job, backend, phase)

    def record(self, record: Record) -> None:
        if not self._further:
            self._shown.record(record)

    def output(self, backend: str, text: str) -> None:
        self._shown.output(backend, text)

    def end(self) -> None:
        self._shown.end()


def planned_only(outcome: Outcome, request: Request) -> Outcome:
    """The outcome without the cases that were posed to make a failing one smaller."""
    if not isinstance(request.course, Shrinking):
        return outcome
    planned = {key for _, key in request.suite.kept_keys()}
    return replace(outcome, records=[record for record in outcome.records if record.case_key in planned])


def shrunk_lines(request: Request) -> Iterator[str]:
    """The smallest failing cases that a run with generated ones came to, and the command that repeats each."""
    if isinstance(request.course, Shrinking):
        for found in request.course.found:
            yield from _told(found, request)


def _told(found: Shrunk, request: Request) -> Iterator[str]:
    record = found.smallest
    yield from wrapped(f"smallest failing case of {record.backend}: {record.case_key}")
    yield from wrapped(f"{INDENT}{record.kind or record.status}: {record.reason.partition(chr(10))[0]}", 2 * INDENT)
    yield from wrapped(f"{INDENT}from {found.first.case_key} in {count(found.attempts, 'further case')}", 2 * INDENT)
    yield from shell_command(again(record.backend, axis_words(record.case), request), f"{INDENT}again: ")


def again(backend: str, words: Iterable[str], request: Request) -> list[str]:
    """A case of default checks as a command."""
    plugins = [word for spec in request.plugins for word in ("--plugin", spec)]
    command = ["attnbench", "run", *words, *plugins, "--backend", backend, "--no-time"]
    if request.interpret:
        command.append("--interpret" if request.interpret == "auto" else f"--interpret={request.interpret}")
    return [*command, "--seed", str(request.seed)]
