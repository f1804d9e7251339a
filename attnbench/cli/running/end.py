"""How `attnbench run` ends: a summary, where the time went, what is missing, where the records are, and the status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

from attnbench.backend import Base
from attnbench.backends import builtin
from attnbench.records.record import NO_ANSWER, Record
from attnbench.records.stats import speeds
from attnbench.run.emulated import emulated_names
from attnbench.run.runner import STATUS_MEANS, Outcome
from attnbench.screen import shell_command, wrapped
from attnbench.units import show_time

# Cases that a budget left no time for, named one a line.
SHOWN_NOT_RUN = 10
# Records of two speeds, named one a line.
SHOWN_TWO_SPEEDS = 5
# What a plugin's backend counts as where only built-in ones are known by name.
PLAIN = Base()


def print_outcome(outcome: Outcome, plugins: Sequence[str] = ()) -> None:
    """Summary table, where the time went, what is missing, where the records are, and what the exit status means.

    plugins: as they were given, without which the run cannot go on.
    """
    if outcome.unavailable and not outcome.interrupted:
        print_nothing_ran(outcome)
        return

    from attnbench.cli.running.diagnosis import diagnosis, printed_table

    if outcome.records:
        printed_table(outcome.records, outcome.path)
    say(time_split(outcome))
    for text in (*spoilt(outcome.records), *of_two_speeds(outcome.records), *outcome.suspicions):
        say(f"suspect: {text}")
    for text in without_answer(outcome.records):
        say(f"warning: {text}")
    for text in outcome.notes:
        say(f"note: {text}")
    for text in outcome.incomplete:
        say(f"incomplete: {text}")
    for key in outcome.not_run[:SHOWN_NOT_RUN]:
        click.echo(f"not run: {key}")
    if len(outcome.not_run) > SHOWN_NOT_RUN:
        click.echo(f"not run: {len(outcome.not_run) - SHOWN_NOT_RUN} more, the largest {outcome.not_run[-1]}")
    counts = Counter(record.status for record in outcome.records)
    counted = ", ".join(
        f"{counts[status]} {status}" for status in ("ok", "incorrect", "error", "unsupported") if counts[status]
    )
    say(f"records: {outcome.path} ({counted or 'none'})")
    if outcome.interrupted or outcome.incomplete:
        further = [word for spec in plugins for word in ("--plugin", spec)]
        command = shell_command(["attnbench", "run", "--resume", str(outcome.path), *further], "go on with: ")
        click.echo("\n".join(command))
    for line in diagnosis(outcome.records, outcome.path):
        click.echo(line)
    status = outcome.exit_status
    say(f"exit status {status}: {STATUS_MEANS[status]}")


def say(text: str) -> None:
    """In lines that fit the terminal."""
    click.echo("\n".join(wrapped(text)))


def print_nothing_ran(outcome: Outcome) -> None:
    """Three lines: why no backend of the suite can run here, what can, and where that is written down."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in outcome.unavailable.items():
        by_reason.setdefault(reason.partition("\n")[0], []).append(name)
    say("nothing ran: " + "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()))
    others = [name for name in outcome.able if not builtin().get(name, PLAIN).by_name_only]
    emulated = any(name in outcome.able for name in emulated_names())
    ours = "; our kernels, judged in the CPU emulation, with --emulated --budget 10m" if emulated else ""
    say(f"here run, with --backend NAME: {', '.join(others) or 'none'}{ours}")
    status = outcome.exit_status
    counted = f"{len(outcome.records)} unsupported"
    say(f"records: {outcome.path} ({counted}); exit status {status}: {STATUS_MEANS[status]}")


def spoilt(records: Sequence[Record]) -> tuple[str, ...]:
    """The blocks that the machine spoilt, by cause: no number holds them; they tell how still it held."""
    causes: Counter[str] = Counter()
    for record in records:
        causes.update(record.measurement.discarded if record.measurement else {})
    return tuple(
        f"{count} {'block was' if count == 1 else 'blocks were'} discarded: {cause}" for cause, count in causes.items()
    )


def of_two_speeds(records: Sequence[Record]) -> tuple[str, ...]:
    """The measurements that are none, since calls have two speeds; the first few, and how many more there are."""
    texts = []
    for record in records:
        both = speeds(record.measurement) if record.measurement else ()
        if len(both) > 1:
            texts.append(f"{record.backend} on {record.case_key} has two speeds, {' and '.join(map(show_time, both))}")
    more = len(texts) - SHOWN_TWO_SPEEDS
    return (*texts[:SHOWN_TWO_SPEEDS], *([f"two speeds: {more} more, as the report tells"] if more > 0 else []))


def without_answer(records: Sequence[Record]) -> tuple[str, ...]:
    """Right kernels of an 8-bit scheme that cannot hold its inputs: a line a backend, with its first case."""
    found: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        for text in record.warnings:
            if text.startswith(NO_ANSWER):
                found.setdefault(record.backend, []).append((record.case_key, text))
    return tuple(
        f"{backend}, {len(of)} {'case' if len(of) == 1 else 'cases'}: {of[0][1]} (first: {of[0][0]})"
        for backend, of in found.items()
    )


def time_split(outcome: Outcome) -> str:
    """Wall time by phase; the rest is the harness's own: starting workers, transport, writing."""
    if outcome.wall_s <= 0:
        return "wall time 0 s"
    own_s = outcome.wall_s - sum(outcome.spent_s.values())
    shares = [*outcome.spent_s.items(), ("own overhead", own_s)]
    text = ", ".join(f"{name} {seconds / outcome.wall_s:.0%}" for name, seconds in shares)
    return f"wall time {outcome.wall_s:.0f} s: {text}"
