"""`attnbench run`: from the command's options to runs, and what is printed at their end."""

from __future__ import annotations

import itertools
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from attnbench import plugins
from attnbench.backends import builtin
from attnbench.cli.doctor import doubt_line
from attnbench.cli.group import terminated_like_interrupted
from attnbench.cli.running.end import PLAIN, print_outcome, say
from attnbench.cli.running.generated import OnlyPlanned, planned_only, shrunk_lines, with_cases
from attnbench.machine.host import cpu_facts
from attnbench.machine.nvml import gpus
from attnbench.messages import TRUSTED, UNTRUSTED
from attnbench.records.environment import section
from attnbench.records.store import SUITE, Run, read, refuse_occupied
from attnbench.run.emulated import emulated_twins
from attnbench.run.process import RunError
from attnbench.run.runner import RESULTS, Request, choose_device, run_suite, unknown_backend
from attnbench.run.shrinking import Shrinking
from attnbench.suite.axes import parse_axes
from attnbench.suite.groups import Match
from attnbench.suite.load import axes_suite, load_suite, parse_suite, with_overrides
from attnbench.suite.suite import Suite, parse_only
from attnbench.untrusted.confine import missing

# Lines on combinations that --axis left no place for.
SHOWN_LEFT_OUT = 5
# Lines of a plan that are written together: a suite may have a million.
LINES_AT_ONCE = 1000
# Exit statuses, the gravest first.
GRAVITY = (130, 1, 3, 0)


def run_command(
    suites: tuple[str, ...],
    axes: tuple[str, ...],
    backends: tuple[str, ...],
    only: tuple[str, ...],
    plugins: tuple[str, ...],
    device: str,
    out: Path | None,
    resume: Path | None,
    no_time: bool,
    dry_run: bool,
    print_suite: bool,
    budget: float | None,
    timeout: float | None,
    show_output: bool,
    processes: int | None,
    emulated: bool,
    emulation: tuple[str, ...] | None,
    emulation_checks: str | None,
    interpret: str | None,
    seed: int | None,
    generate: int | None,
    untrusted: bool,
) -> int:
    """The exit status. Raises a user error for a mistake, before anything is written."""
    timing = {name: value for name, value in (("timeout_s", timeout), ("processes", processes)) if value is not None}
    launched = {"delivery": emulation, "checks": emulation_checks}
    kept = tuple(map(parse_only, only))
    run = None if resume is None else _to_resume(resume, out, plugins, backends)
    if run is not None and generate is not None:
        raise RunError(f"--resume {resume} goes on with the cases stored there; leave out --generate {generate}")
    given, seed = with_cases(_load(suites, axes, kept, run, bool(generate)), generate, seed, kept)
    loaded = [
        with_overrides(
            suite,
            backends=backends or None,
            only=kept,
            time=False if no_time or emulated or interpret else None,
            timing=timing,
            emulation={name: value for name, value in launched.items() if value is not None},
        )
        for suite in given
    ]
    _check_names(loaded, backends, plugins)
    if emulated:
        loaded = [replace(suite, backends=emulated_twins(suite.backends, suite.name)) for suite in loaded]
    joining = () if backends or run else plugins
    _print_left_out(loaded)
    if print_suite:
        _print_suite(loaded, plugins)
        return 0
    if dry_run:
        for suite in loaded:
            _print_plan(suite, joining)
        return 0
    from attnbench.cli.running.terminal import make_progress

    interpret = _interpreted(interpret, run)
    trust = _trust(untrusted, interpret, run)
    device = "cpu" if interpret and device == "auto" and run is None else device
    kind = choose_device(device) if run is None else _device_of(run, device)
    places = _run_directories(loaded, out) if run is None else [run.path]
    doubt = doubt_line(kind) if any(_may_be_timed(suite, kind) for suite in loaded) else ""
    if doubt:
        say(doubt)
    if trust == UNTRUSTED and (lacking := missing()):
        say(f"--untrusted, without: {'; '.join(lacking)}")
    requests = [
        Request(
            suite,
            kind,
            place,
            OnlyPlanned(make_progress()) if generate else make_progress(),
            plugins,
            add_plugins=bool(joining),
            resume=run is not None,
            show_output=show_output,
            interpret=interpret,
            seed=seed,
            course=Shrinking() if generate else None,
            trust=trust,
        )
        for suite, place in zip(loaded, places)
    ]
    return _run_all(requests, budget)


def _run_all(requests: Sequence[Request], budget_s: float | None) -> int:
    """Runs one after the other, as long as nobody interrupts; the gravest of their exit statuses."""
    started, statuses = time.monotonic(), []
    for request in requests:
        left = None if budget_s is None else max(0.0, budget_s - (time.monotonic() - started))
        with terminated_like_interrupted():
            outcome = run_suite(replace(request, budget_s=left))
        print_outcome(planned_only(outcome, request), request.plugins)
        click.echo("".join(f"{line}\n" for line in shrunk_lines(request)), nl=False)
        statuses.append(outcome.exit_status)
        if outcome.interrupted:
            for later in requests[len(statuses) :]:
                click.echo(f"not begun: {later.suite.name}")
            break
    return next(status for status in GRAVITY if status in statuses)


def _load(suites: tuple[str, ...], axes: tuple[str, ...], only: Match, run: Run | None, generate: bool) -> list[Suite]:
    """The suites named, the one that --axis makes, or the one stored with the run that is continued; with `generate`
    there may be none."""
    given = parse_axes(axes)
    if run is None:
        if not suites and not given:
            if generate:
                return []
            raise RunError(
                "name a suite, such as quick, or a file (`attnbench list suites` shows those that ship), or a shape: "
                "--axis head_dim=64,128 --axis seqlen=1k, or let shapes be drawn: --generate 200"
            )
        return [load_suite(suite, given, only) for suite in suites] or [axes_suite(given)]
    if axes:
        raise RunError(f"--resume {run.path} goes on with the cases stored there; leave out --axis {axes[0]}")
    stored = parse_suite(run.suite_text, str(run.path / SUITE))
    for asked in map(load_suite, suites):
        if asked.name != stored.name:
            raise RunError(
                f'--resume {run.path} is a run of suite "{stored.name}", not of "{asked.name}"; '
                "name no suite with --resume"
            )
    return [stored]


def _to_resume(path: Path, out: Path | None, specs: tuple[str, ...], backends: tuple[str, ...]) -> Run:
    """The run to continue. A run that used plugins can go on only with them, since where they lie is not stored."""
    if out is not None and out.resolve() != path.resolve():
        raise RunError(f"--resume {path} continues in that directory; leave out --out {out}")
    run = read(path)
    used, given = run.environment.get("plugins", ()), {plugins.plain_spec(spec): spec for spec in specs}
    for spec in used:
        if spec not in given:
            raise RunError(f"--resume {path}: this run used --plugin {spec}; name it again")
    for plain, spec in given.items():
        if plain not in used and not backends:
            raise RunError(
                f"--resume {path}: this run did not use --plugin {spec}; leave it out, or name a backend of it too "
                "with --backend"
            )
    return run


def _interpreted(asked: str | None, run: Run | None) -> str:
    """The mode of interpreters, "" for none; a run goes on as it was begun."""
    begun = "" if run is None else str(run.environment.get("interpret", ""))
    if run is not None and asked is not None and asked != begun:
        how = f"with --interpret={begun}" if begun else "without --interpret"
        raise RunError(f"--resume {run.path}: this run was begun {how}; go on with it that way")
    return begun or asked or ""


def _trust(untrusted: bool, interpret: str, run: Run | None) -> str:
    """A member of `messages.TRUST`; a run goes on as it was begun."""
    begun = TRUSTED if run is None else str(section(run.environment, "trust").get("mode", TRUSTED))
    if run is not None and untrusted and begun != UNTRUSTED:
        raise RunError(f"--resume {run.path}: this run was begun without --untrusted; go on with it that way")
    trust = UNTRUSTED if untrusted else begun
    if interpret and trust == UNTRUSTED:
        raise RunError("--untrusted and --interpret exclude each other: interpreters watch kernels from within")
    return trust


def _check_names(suites: Sequence[Suite], asked: tuple[str, ...], specs: tuple[str, ...]) -> None:
    """Unknown backends, as far as that can be told without importing plugins: those asked for, else the suites' own."""
    for spec in specs:
        plugins.check_spec(spec)
    if not (asked or any(suite.backends for suite in suites)) or plugins.names_unknown(specs):
        return  # nothing to check, or the run looks again, once a worker has imported the plugins
    known = (*builtin(), *plugins.announced_names(specs))
    for name in asked:
        if name not in known:
            raise RunError(unknown_backend(name, known))
    if not asked:
        for suite in suites:
            suite.check_backends(known)


def _device_of(run: Run, asked: str) -> str:
    """The device that a run was begun on, which is where it goes on: numbers of two devices are two runs."""
    begun = run.environment.get("device")
    kind = choose_device(begun if asked == "auto" and begun else asked)
    if begun and kind != begun:
        raise RunError(f"--resume {run.path}: this run was begun on {begun}, not on {kind}; leave out --device {asked}")
    if kind == "cpu":
        chip, here = section(run.environment, "cpu").get("model"), cpu_facts()["model"]
    else:
        chip, here = section(run.environment, "gpu").get("name"), _gpu_name(kind)
    if chip and here and chip != here:
        raise RunError(f"--resume {run.path}: this run was begun on {chip}, and here is {here}; begin a run of its own")
    return kind


def _gpu_name(device: str) -> str | None:
    return next((gpu.name for gpu in gpus()[int(device.partition(":")[2]) :]), None)


def _run_directories(suites: Sequence[Suite], out: Path | None) -> list[Path]:
    """One for each suite. Raises a user error where two are the same or one is not free, before any suite runs."""
    names = [suite.name for suite in suites]
    for name, times in Counter(names).items():
        if times > 1:
            raise RunError(f'two of these suites are named "{name}"; run them one by one, or give one another name')
    if out is None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        places = [RESULTS / f"{started}-{name}" for name in names]
    else:
        places = [out / name for name in names] if len(names) > 1 else [out]
    for place in places:
        refuse_occupied(place)
    return places


def _may_be_timed(suite: Suite, kind: str) -> bool:
    """Whether a group is timed and a backend that the suite names may run on such a device."""
    known = builtin()
    devices = [known.get(name, PLAIN).devices for name in suite.backends] if suite.backends is not None else [(kind,)]
    return any(group.time for group in suite.groups) and any(kind.split(":")[0] in some for some in devices)


def _print_left_out(suites: Sequence[Suite]) -> None:
    """What --axis left no place for, on stderr: a suite on stdout may go into a file."""
    told = [f"{suite.name}: {text}" for suite in suites for text in suite.left_out]
    for text in told[:SHOWN_LEFT_OUT]:
        click.echo(f"note: {text}", err=True)
    if len(told) > SHOWN_LEFT_OUT:
        click.echo(f"note: {len(told) - SHOWN_LEFT_OUT} more like it; --print-suite shows what is left", err=True)


def _print_suite(suites: Sequence[Suite], specs: Sequence[str]) -> None:
    """A suite as YAML that runs the same cases, with the command that does so as a comment."""
    if len(suites) > 1:
        raise RunError(f"--print-suite prints one suite, not {len(suites)}; name one")
    (suite,) = suites
    words = ["attnbench", "run", f"{suite.name}.yaml", *(word for spec in specs for word in ("--plugin", spec))]
    click.echo(f"# as {suite.name}.yaml: {shlex.join(words)}\n{suite.to_yaml(complete=False)}", nl=False)


def _print_plan(suite: Suite, joining: tuple[str, ...]) -> None:
    """joining: plugins whose backends join the suite's list."""
    names = list(suite.backends) if suite.backends is not None else ["all that are available"]
    names += [name for name in plugins.announced_names(joining) if name not in names]
    click.echo(f"{suite.name}: {suite.count()} cases; backends: {', '.join(names)}")
    lines = (f"{group.name}  {key}{'' if group.time else '  (not timed)'}\n" for group, key in suite.kept_keys())
    for part in iter(lambda: "".join(itertools.islice(lines, LINES_AT_ONCE)), ""):
        click.echo(part, nl=False)
    for case, reason in suite.excluded().items():
        click.echo(f"excluded  {case.key}  {reason}")
