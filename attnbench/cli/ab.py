"""`attnbench ab`: from two revisions to run directories, verdicts and an exit status."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from attnbench.ab.journal import Journal, begin, choose_folder, continued, write_runs
from attnbench.ab.measure import (
    Measured,
    PairedRun,
    Task,
    comparison_of,
    confirmed,
    null_tasks,
    start,
    tasks_to_confirm,
)
from attnbench.ab.revision import RevisionWorker
from attnbench.ab.worktree import BuildFailed, Repository, Revision, build, worktrees
from attnbench.cli.ab_progress import PairsShown
from attnbench.cli.compare import print_comparison, write_outputs
from attnbench.cli.group import INTERRUPTED, terminated_like_interrupted
from attnbench.compare.ci_output import make_room
from attnbench.compare.comparison import Comparison
from attnbench.compare.gate import INCOMPLETE, GateResult, judge_gate
from attnbench.compare.margin import Margin
from attnbench.compare.verdict import FEWEST_PROCESSES
from attnbench.hopper.build import build_facts
from attnbench.machine import facts as environment
from attnbench.messages import Ready
from attnbench.plugins import plain_spec
from attnbench.printable import log_text
from attnbench.redaction import redacted_command
from attnbench.run.process import RunError
from attnbench.run.runner import choose_device, unknown_backend
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import Suite, parse_only
from attnbench.units import count

LEAST_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class AbRequest:
    """What the command line asks for."""

    suite: Suite
    base: str
    head: str
    backends: tuple[str, ...]
    plugins: tuple[str, ...]
    build: str | None
    processes: int
    margin: Margin
    device: str
    out: Path
    resume: bool
    strict: bool
    junit: Path | None
    overwrite: bool
    github: bool


def ab_command(
    suite: str, base: str, head: str, backends: tuple[str, ...], only: tuple[str, ...], plugins: tuple[str, ...],
    build: str | None, processes: int, margin: Margin, device: str, out: Path | None, resume: Path | None,
    timeout: float | None, strict: bool, junit: Path | None, github: bool, overwrite: bool = False,
) -> int:  # fmt: skip
    """The exit status. Raises a user error for a mistake, before anything is measured."""
    if processes < LEAST_PROCESSES:
        raise RunError(f"--processes {processes}: {LEAST_PROCESSES} at least, and {FEWEST_PROCESSES} for a verdict")
    loaded = with_overrides(
        load_suite(suite), only=tuple(map(parse_only, only)), timing={} if timeout is None else {"timeout_s": timeout}
    )
    out = choose_folder(loaded.name, out, resume)
    if junit is not None:
        make_room(junit, overwrite)
    request = AbRequest(
        loaded, base, head, backends, plugins, build, processes, margin, choose_device(device),
        out, resume is not None, strict, junit, overwrite, github,
    )  # fmt: skip
    repository = Repository(Path.cwd())
    revisions = [repository.revision("base", base), repository.revision("head", head)]
    if processes < FEWEST_PROCESSES:
        click.echo(f"note: verdicts are inconclusive with fewer than {FEWEST_PROCESSES} processes")
    try:
        with terminated_like_interrupted():
            return _compared(request, repository, revisions)
    except BuildFailed as error:
        click.echo(log_text(f"attnbench: {error}"), err=True)
        gate_result = GateResult(INCOMPLETE, reasons={str(error): INCOMPLETE})
        nothing = Comparison.of_nothing(base, head, margin)
        return write_outputs("ab", nothing, gate_result, junit, overwrite, github)
    except KeyboardInterrupt:
        so_far = f"the records so far: {out}; the same command with --resume {out} goes on"
        kept = so_far if out.exists() else "nothing was measured yet"
        click.echo(f"exit status {INTERRUPTED}: interrupted; {kept}")
        return INTERRUPTED


def _compared(request: AbRequest, repository: Repository, revisions: Sequence[Revision]) -> int:
    with worktrees(repository, revisions) as tops, ExitStack() as at_the_end:
        places = [*zip(revisions, tops), (revisions[0], tops[0])]
        sides = [RevisionWorker(*place, repository, request.device, request.plugins) for place in places]
        for side in sides:
            at_the_end.callback(side.stop)
        base, head, again = sides
        if request.build:
            for side in (base, head):
                click.echo(f"building {side.revision}: {redacted_command(request.build)}")
                build(request.build, side.revision, side.folder, side.environment())
        ready = start(base, head)
        tasks = _tasks(request, base, head, ready)
        for line in _what(request, repository, revisions, tasks, ready):
            click.echo(line)
        facts = _facts(request, revisions, ready)
        if request.resume:
            facts = continued(request.out, facts, _suite_text(request, tasks))
        begin(request.out, facts, _suite_text(request, tasks))
        seed = zlib.crc32(" ".join((request.suite.name, *(revision.commit for revision in revisions))).encode())
        paired_run = PairedRun(base, head, again, seed)
        first = _measured(request, request.out, paired_run, facts, tasks, True)
        comparison = comparison_of(request.out, revisions, replace(request.margin, noise_floor=first.floor()))
        slower = tasks_to_confirm(comparison, tasks)
        if slower:
            click.echo(f"slower: {len(slower)} to be measured again in fresh processes before that counts")
            further = PairedRun(base, head, again, seed + 1)
            second = _measured(request, request.out / "confirm", further, facts, slower, False)
            comparison = confirmed(comparison, second)
    return _ruled(request, comparison)


def _tasks(request: AbRequest, base: RevisionWorker, head: RevisionWorker, ready: Sequence[Ready]) -> list[Task]:
    """What both sides have: the backends asked for, else those of plugins, else the suite's.

    Raises RunError for one that is asked for and is not on both sides, and for one that only base has.
    """
    given = list(dict.fromkeys(name for event in ready for name in event.given))
    runnable = [name for name in ready[0].unasked if name in ready[1].unasked]
    names = []
    for name in request.backends or given or request.suite.backends or runnable:
        on_base, on_head = (name in event.backends for event in ready)
        if not (on_base or on_head):
            raise RunError(unknown_backend(name, tuple(ready[0].backends)))
        if on_base and on_head:
            names.append(name)
        elif on_base or request.backends:
            there, missing = (base, head) if on_base else (head, base)
            raise RunError(
                f'backend "{name}" is in {there.revision} and not in {missing.revision}; '
                "name those that both have with --backend"
            )
        else:
            click.echo(f"note: {name} is new in {head.revision}: nothing to hold it against")
    if not names:
        raise RunError(f"{head.revision} has no backend that {base.revision} has too")
    return [Task(job, name) for job in request.suite.jobs() for name in names]


def _what(
    request: AbRequest, repository: Repository, revisions: Sequence[Revision], tasks: Sequence[Task],
    ready: Sequence[Ready],
) -> Iterator[str]:  # fmt: skip
    """What is compared with what, and what is not."""
    given = {name for event in ready for name in event.given}
    names = list(dict.fromkeys(task.backend for task in tasks))
    mine, common = [name for name in names if name in given], [name for name in names if name not in given]
    yield f"{revisions[1]} against {revisions[0]}: {', '.join(names)} on {len(request.suite.jobs())} cases"
    if revisions[0].commit == revisions[1].commit:
        yield "note: both are the same commit, so whatever differs is noise"
    if common:
        what = f"{', '.join(common)}: not from a plugin, the same code on both sides"
        yield f"note: {what}{' but for what --build makes' if request.build else ''}"
    if not mine and not request.build:
        yield "note: nothing here comes from the repository; --plugin names a kernel that does"
    changed = repository.changed()
    if changed and "." not in (request.base, request.head):
        yield f"note: what is not committed in {repository.top} ({count(changed, 'file')}) is in neither side"


def _facts(request: AbRequest, revisions: Sequence[Revision], ready: Sequence[Ready]) -> list[dict[str, Any]]:
    """The environment of either side's run."""
    collected, session = environment.collect(request.device) | build_facts(), secrets.token_hex(8)
    return [
        {
            **environment.with_worker(collected, event.facts),
            "device": request.device,
            "plugins": [plain_spec(spec) for spec in request.plugins],
            "processes": request.processes,
            "interleaved": {"session": session, "arm": revision.name},
            "revision": {
                "ref": revision.ref,
                "commit": revision.commit,
                "tree": revision.tree,
                "build": None if request.build is None else redacted_command(request.build),
            },
        }
        for revision, event in zip(revisions, ready)
    ]


def _measured(
    request: AbRequest,
    out: Path,
    paired_run: PairedRun,
    facts: Sequence[dict[str, Any]],
    tasks: Sequence[Task],
    null: bool,
) -> Measured:
    """Measures what the journal lacks, and writes one run directory per side: also what an interruption leaves."""
    text = _suite_text(request, tasks)
    with closing(Journal(out)) as journal:
        paired_run.measured = Measured.of(journal.pairs(), journal.append)
        nulls = null_tasks(tasks) if null else []
        shown = PairsShown(paired_run.left(tasks, request.processes, nulls), request.processes)
        paired_run.tell, paired_run.tell_null, paired_run.watch = shown.compared, shown.measured, shown.phase
        try:
            return paired_run.run(tasks, request.processes, nulls)
        finally:
            shown.end()
            write_runs(out, facts, text, paired_run.measured)


def _suite_text(request: AbRequest, tasks: Sequence[Task]) -> str:
    return replace(request.suite, backends=tuple(dict.fromkeys(task.backend for task in tasks))).to_yaml()


def _ruled(request: AbRequest, comparison: Comparison) -> int:
    gate_result = judge_gate(comparison, request.strict)
    print_comparison(comparison)
    more = [f"records: {request.out / 'base'} and {request.out / 'head'}"]
    return write_outputs("ab", comparison, gate_result, request.junit, request.overwrite, request.github, more)
