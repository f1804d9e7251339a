"""`attnbench run`: from the command's options to runs, and what is printed at their end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Sequence

import click

from attnbench import plugins
from attnbench.backends import builtin
from attnbench.environment import gpus
from attnbench.progress import make_progress
from attnbench.record import Record
from attnbench.run import STATUS_MEANS, Outcome, Request, RunError, plain_spec, run_suite, unknown_backend
from attnbench.store import SUITE, read
from attnbench.suite import Suite, load_suite, parse_only, parse_suite, with_overrides

RESULTS = Path("results")
# Columns of the summary where the output is no terminal.
LOG_WIDTH = 140
# Exit statuses, the gravest first.
GRAVITY = (130, 1, 3, 0)


def run_command(
    suites: tuple[str, ...],
    backends: tuple[str, ...],
    only: tuple[str, ...],
    plugins: tuple[str, ...],
    device: str,
    out: Path | None,
    resume: Path | None,
    no_time: bool,
    dry_run: bool,
    budget: float | None,
    timeout: float | None,
    processes: int | None,
) -> int:
    """The exit status. Raises a user error for a mistake, before anything is written."""
    timing = {name: value for name, value in (("timeout_s", timeout), ("processes", processes)) if value is not None}
    loaded = _load(suites, out, resume)
    if resume is not None:
        _require_plugins(resume, plugins)
    loaded = [
        with_overrides(
            suite,
            backends=backends or None,
            only=tuple(map(parse_only, only)),
            time=False if no_time else None,
            timing=timing,
        )
        for suite in loaded
    ]
    _check_names(loaded, backends, plugins)
    if dry_run:
        for suite in loaded:
            _print_plan(suite, plugins)
        return 0
    kind = choose_device(device) if resume is None else _device_of(resume, device)
    started, statuses = time.monotonic(), []
    for suite in loaded:
        left = None if budget is None else max(0.0, budget - (time.monotonic() - started))
        request = Request(
            suite=suite,
            device=kind,
            out=resume or _run_directory(suite, out, len(loaded) > 1),
            progress=make_progress(),
            plugins=plugins,
            add_plugins=not backends,
            resume=resume is not None,
            budget_s=left,
        )
        outcome = run_suite(request)
        print_outcome(outcome)
        statuses.append(outcome.exit_status)
        if outcome.interrupted:
            break
    return next(status for status in GRAVITY if status in statuses)


def _load(suites: tuple[str, ...], out: Path | None, resume: Path | None) -> list[Suite]:
    if resume is None:
        if not suites:
            raise RunError("name a suite, such as quick, or a file; `attnbench list suites` shows those that ship")
        return [load_suite(suite) for suite in suites]
    if out is not None and out.resolve() != resume.resolve():
        raise RunError(f"--resume {resume} continues in that directory; leave out --out {out}")
    stored = parse_suite(read(resume).suite_text, str(resume / SUITE))
    for given in map(load_suite, suites):
        if given.name != stored.name:
            raise RunError(
                f'--resume {resume} is a run of suite "{stored.name}", not of "{given.name}"; name no suite with --resume'
            )
    return [stored]


def _require_plugins(run: Path, specs: tuple[str, ...]) -> None:
    """A run that used plugins can go on only with them; where they lie is not stored."""
    given = {plain_spec(spec) for spec in specs}
    for spec in read(run).environment.get("plugins", ()):
        if spec not in given:
            raise RunError(f"--resume {run}: this run used --plugin {spec}; name it again")


def _check_names(suites: Sequence[Suite], asked: tuple[str, ...], specs: tuple[str, ...]) -> None:
    """Unknown backends, as far as that can be told without importing plugins: those asked for, else the suites' own."""
    for spec in specs:
        plugins.check_spec(spec)
    if plugins.names_unknown(specs):
        return  # the run looks again, once a worker has imported the plugins
    known = (*builtin(), *plugins.announced_names(specs))
    for name in asked:
        if name not in known:
            raise RunError(unknown_backend(name, known))
    if not asked:
        for suite in suites:
            suite.check_backends(known)


def choose_device(asked: str) -> str:
    """The device that "auto" stands for. Raises RunError for a name that is no device."""
    if asked == "auto":
        return "cuda:0" if gpus() else "cpu"
    if asked == "cuda":
        return "cuda:0"
    kind, _, index = asked.partition(":")
    if asked != "cpu" and not (kind == "cuda" and index.isdigit()):
        raise RunError(f'unknown device "{asked}"; use auto, cpu, cuda, or one card such as cuda:1')
    return asked


def _device_of(run: Path, asked: str) -> str:
    """The device that a run was begun on, which is where it goes on: numbers of two devices are two runs."""
    begun = read(run).environment.get("device")
    kind = choose_device(begun if asked == "auto" and begun else asked)
    if begun and kind != begun:
        raise RunError(f"--resume {run}: this run was begun on {begun}, not on {kind}; leave out --device {asked}")
    return kind


def _run_directory(suite: Suite, out: Path | None, several: bool) -> Path:
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{suite.name}"
    if out is None:
        return RESULTS / name
    return out / suite.name if several else out


def _print_plan(suite: Suite, specs: tuple[str, ...]) -> None:
    jobs = suite.jobs()
    names = list(suite.backends) if suite.backends is not None else ["all that are available"]
    names += [name for name in plugins.announced_names(specs) if name not in names]
    click.echo(f"{suite.name}: {len(jobs)} cases; backends: {', '.join(names)}")
    click.echo("\n".join(f"{job.group}  {job.case.key}{'' if job.time else '  (not timed)'}" for job in jobs))
    for case, reason in suite.excluded().items():
        click.echo(f"excluded  {case.key}  {reason}")


def print_outcome(outcome: Outcome) -> None:
    """Summary table, where the time went, what is missing, where the records are, and what the exit status means."""
    from rich.console import Console

    from attnbench.summary import summary_table

    if outcome.records:
        width = None if sys.stdout.isatty() else LOG_WIDTH
        Console(width=width).print(summary_table(outcome.records))
    click.echo(time_split(outcome))
    for text in (*spoilt(outcome.records), *outcome.suspicions):
        click.echo(f"suspect: {text}")
    for text in outcome.incomplete:
        click.echo(f"incomplete: {text}")
    counts = Counter(record.status for record in outcome.records)
    counted = ", ".join(
        f"{counts[status]} {status}" for status in ("ok", "incorrect", "error", "unsupported") if counts[status]
    )
    click.echo(f"records: {outcome.path} ({counted or 'none'})")
    if outcome.interrupted or outcome.incomplete:
        click.echo(f"go on with: attnbench run --resume {outcome.path}")
    status = outcome.exit_status
    click.echo(f"exit status {status}: {STATUS_MEANS[status]}")


def spoilt(records: Sequence[Record]) -> tuple[str, ...]:
    """The blocks that the machine spoilt, by cause: no number holds them; they tell how still it held."""
    causes = Counter()
    for record in records:
        causes.update(record.measurement.discarded if record.measurement else {})
    return tuple(
        f"{count} {'block was' if count == 1 else 'blocks were'} discarded: {cause}" for cause, count in causes.items()
    )


def time_split(outcome: Outcome) -> str:
    """Wall time by phase; the rest is the harness's own: starting workers, transport, writing."""
    if outcome.wall_s <= 0:
        return "wall time 0 s"
    shares = [(name, seconds) for name, seconds in outcome.spent_s.items()]
    shares.append(("own overhead", outcome.wall_s - sum(outcome.spent_s.values())))
    text = ", ".join(f"{name} {seconds / outcome.wall_s:.0%}" for name, seconds in shares)
    return f"wall time {outcome.wall_s:.0f} s: {text}"
