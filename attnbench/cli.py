"""The command line: parse, call one function, print. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from attnbench import __version__

USAGE_ERROR = 2
INTERRUPTED = 130
# click 8.2 raises this where a group is called bare; before that it printed the help itself.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class UserError(click.ClickException):
    """A mistake of the user's: one line, exit status 2."""

    exit_code = USAGE_ERROR


class Commands(click.Group):
    """A group whose every mistake is one line on stderr, and whose interruption is exit status 130, as a shell has it."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            status = super().main(*arguments, **{**options, "standalone_mode": False})
        except NO_ARGUMENTS as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            line = " ".join(error.format_message().split())
            click.echo(f"attnbench: {line}{_help_hint(error)}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("attnbench: interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Benchmarking and correctness harness for attention kernels.

    \b
    attnbench run suites/quick.yaml           check every backend, then time it
    attnbench report results/RUN -o report.md
    attnbench gate results/baselines results/RUN
    Shell completion: eval "$(_ATTNBENCH_COMPLETE=bash_source attnbench)"   (or zsh_source, fish_source)
    """


def _suite_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    files = [CompletionItem(incomplete, type="file")]
    from attnbench.suite import shipped_suites

    return files + [
        CompletionItem(name, help=about) for name, about, _ in shipped_suites() if name.startswith(incomplete)
    ]


def _backend_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from attnbench.backends import builtin

    return [name for name in builtin() if name.startswith(incomplete)]


def _run_directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from attnbench.completion import run_directories

    return run_directories(incomplete)


class Budget(click.ParamType):
    """`90s`, `15m`, `2h`, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, parameter: Any, context: Any) -> float:
        if isinstance(value, float):
            return value
        number, factor = (
            (value[:-1], {"s": 1, "m": 60, "h": 3600}[value[-1]]) if value[-1:] in ("s", "m", "h") else (value, 1)
        )
        try:
            seconds = float(number) * factor
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f'"{value}" is no duration; write 90s, 15m or 2h', parameter, context)
        return seconds


_BACKENDS = click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    shell_complete=_backend_names,
    help="Run this backend instead of the suite's list; repeatable.",
)
_ONLY = click.option(
    "--only", multiple=True, metavar="FIELD=VALUE[,VALUE]", help="Keep only the cases with these values; repeatable."
)
_PLUGINS = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="SPEC",
    help="A kernel of yours: file.py:function, module:function, or file.py with BACKENDS.",
)
_DEVICE = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, or one card: cuda:1."
)


@main.command(epilog="Example: attnbench run suites/quick.yaml --backend naive --only dtype=bf16 --out results/try")
@click.argument("suites", nargs=-1, metavar="SUITE...", shell_complete=_suite_names)
@_BACKENDS
@_ONLY
@_PLUGINS
@_DEVICE
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run directory, new or empty. With several suites, their parent."
)
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", shell_complete=_run_directories,
    help="Finish this run; repeats nothing.",
)  # fmt: skip
@click.option("--no-time", is_flag=True, help="Check only.")
@click.option("--dry-run", is_flag=True, help="Print the cases and stop.")
@click.option("--budget", type=Budget(), help="Begin no case after so long, such as 15m.")
@click.option("--timeout", type=float, metavar="SECONDS", help="End a record that takes longer (default 120).")
@click.option("--processes", type=int, metavar="N", help="Measure every case in N fresh processes.")
def run(suites: tuple[str, ...], **options: Any) -> None:
    """Check every case of SUITE on every backend against the fp64 oracle, then time it.

    Writes one run directory a suite, results/<utc time>-<suite>, and prints a summary.

    \b
    Exit status: 0 all good; 1 a result is incorrect; 2 a mistake in the command or the suite; 3 incomplete;
    130 interrupted. Where several apply: 1 over 3.
    """
    from attnbench.run_command import run_command

    sys.exit(_told(run_command, suites, **options))


@main.command(epilog="Example: attnbench report results/20260101T120000Z-quick -o report.md")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path), shell_complete=_run_directories
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.md"),
    show_default=True,
    help="The markdown file; plots go beside it.",
)
def report(runs: tuple[Path, ...], output: Path) -> None:
    """Write a markdown report with plots from one or more run directories.

    A pure function of the run directories: the same records give the same bytes.
    """
    from attnbench.report import write_report

    click.echo(f"report: {_told(write_report, list(runs), output)}")


class MarginType(click.ParamType):
    """`1%`, `0.5%`: a fraction of the base time. The sign is required: 1 alone could mean either."""

    name = "percentage"

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        from attnbench.verdict import Margin

        if isinstance(value, Margin):
            return value
        try:
            if not value.endswith("%"):
                raise ValueError
            return Margin(float(value[:-1]) / 100)
        except ValueError:
            self.fail(f'"{value}" is no margin; write a percentage between 0% and 100%, such as 1%', parameter, context)


_PATH = click.Path(path_type=Path)
_MARGIN = click.option("--margin", type=MarginType(), default="1%", show_default=True, metavar="PERCENT",
                       help="How large a difference must be to matter.")  # fmt: skip
_FORCE = click.option("--force", is_flag=True, help="Compare what is not comparable; every output is stamped with it.")
_JUNIT = click.option("--junit", type=_PATH, metavar="FILE", help="Write the result as JUnit XML too.")
_GITHUB = click.option("--github", is_flag=True, help="Print annotations for GitHub Actions, write the step's summary.")
_STRICT = click.option(
    "--strict", is_flag=True, help="Exit status 4 where a case is inconclusive, 3 where one fails as before."
)
_ALL = click.option("--all", "every", is_flag=True, help="Show every case in the table.")


@main.command(epilog="Example: attnbench compare results/baselines results/20260101T120000Z-quick")
@click.argument("base", metavar="BASE", type=_PATH, shell_complete=_run_directories)
@click.argument("new", metavar="NEW", type=_PATH, shell_complete=_run_directories)
@_MARGIN
@_FORCE
@_ALL
def compare(base: Path, new: Path, **options: Any) -> None:
    """A verdict for every case: slower, faster, same, inconclusive, not comparable, missing.

    BASE and NEW are run directories or folders of runs; BASE may also be a folder with one such folder a machine
    (results/baselines), of which the one of NEW's machine is taken. Runs that were not interleaved with each other
    need three or more in BASE: how far they lie apart says what a difference means.

    Exit status: 0 compared, whatever the verdicts; 2 a mistake in the command; 3 nothing was compared, or a line of a
    run is unreadable.
    """
    from attnbench.gate import compare_command

    sys.exit(_told(compare_command, base, new, **options))


@main.command(epilog="Example: attnbench gate results/baselines results/ci --margin 1% --junit gate.xml --github")
@click.argument("base", metavar="BASE", type=_PATH, shell_complete=_run_directories)
@click.argument("new", metavar="NEW", type=_PATH, shell_complete=_run_directories)
@_MARGIN
@_JUNIT
@_GITHUB
@_STRICT
@_FORCE
@_ALL
def gate(base: Path, new: Path, **options: Any) -> None:
    """Compare, then say by the exit status whether NEW may pass. BASE and NEW as in `attnbench compare`.

    Besides times it holds against BASE: right and wrong, errors against the oracle, peak memory, and the registers,
    spills and shared memory of our kernels.

    \b
    A baseline: attnbench run SUITE --out results/baselines/MACHINE/1, then the same into /2 and /3
    (MACHINE: "machine" in the run's environment.json). Of several equal runners with fewer runs than three each, one
    run of each counts, from three runners on.

    \b
    Exit status: 0 no regression; 1 a case is slower, wrong, or grew; 2 a mistake in the command; 3 a case is missing,
    failed or not comparable, nothing was compared, or a line is unreadable; 4 inconclusive, only with --strict.
    Where several apply: 1 over 3 over 4. What failed in the same way in all of BASE (out of memory, say) is told and
    passes.
    """
    from attnbench.gate import gate_command

    sys.exit(_told(gate_command, base, new, **options))


@main.command(epilog="Example: attnbench ab --base main --head HEAD quick --plugin kernel.py:mine --build 'make -j'")
@click.argument("suite", metavar="SUITE", shell_complete=_suite_names)
@click.option("--base", required=True, metavar="REF", help="The revision to hold against: a commit, branch or tag.")
@click.option("--head", required=True, metavar="REF", help="The revision to judge; . is the checkout as it is.")
@_BACKENDS
@_ONLY
@_PLUGINS
@click.option("--build", metavar="COMMAND", help="Run this in each revision's folder first.")
@click.option("--processes", type=int, default=5, show_default=True, metavar="N", help="Fresh pairs of processes.")
@_MARGIN
@_DEVICE
@click.option("--out", type=_PATH, metavar="DIR", help="Where base/ and head/ are written, new or empty.")
@click.option("--resume", type=_PATH, metavar="DIR", help="Go on with the comparison that was begun there.")
@click.option("--timeout", type=float, metavar="SECONDS", help="End a record that takes longer (default 120).")
@_JUNIT
@_GITHUB
@_STRICT
def ab(suite: str, **options: Any) -> None:
    """Compare two revisions of the git repository that you are in: is HEAD slower than BASE, or wrong?

    Each revision gets a folder of its own (a git worktree, removed at the end; the checkout is not touched), is built
    there, and has its own worker, which imports plugins from that folder. The workers take turns block by block, in
    fresh processes; base against itself on some cases gives the noise floor; what comes out slower is measured again
    in fresh processes before it counts.

    \b
    Exit status: 0 no regression; 1 a regression is confirmed, or HEAD is wrong; 2 a mistake in the command; 3 a build
    failed, or a case is missing, failed or could not be compared; 4 inconclusive, only with --strict; 130 interrupted.
    """
    from attnbench.ab_command import ab_command

    sys.exit(_told(ab_command, suite, **options))


@main.command("list", epilog="Example: attnbench list backends")
@click.argument("what", default="backends", type=click.Choice(["backends", "suites", "inputs", "probes", "metrics"]))
@click.option("--plugin", "plugins", multiple=True, metavar="SPEC", help="Name these too; they are not imported.")
def list_command(what: str, plugins: tuple[str, ...]) -> None:
    """What there is: backends (and why one cannot run here), suites, inputs, probes, metrics."""
    from attnbench.listing import LISTINGS

    for line in _told(LISTINGS[what], plugins):
        click.echo(line)


@main.command(epilog="Example: attnbench repro results/RUN bf16-d64-h8-b2-q512-k512-full-normal.0 naive > repro.py")
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path), shell_complete=_run_directories)
@click.argument("case_key")
@click.argument("backend")
def repro(run_directory: Path, case_key: str, backend: str) -> None:
    """Print a standalone Python script that reproduces one record."""
    from attnbench.repro import repro_script

    click.echo(_told(repro_script, run_directory, case_key, backend))


@main.command(epilog="Example: attnbench schema > attnbench.schema.json")
def schema() -> None:
    """Print the JSON Schema of the suite format, for editors."""
    import json

    from attnbench.suite import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command(epilog="Example: attnbench doctor")
def doctor() -> None:
    """Is this machine fit to measure? What is missing, and the command that mends it. Exit status 3 where it is not."""
    from attnbench.doctor import run_doctor

    sys.exit(run_doctor())


@main.command(epilog="Example: attnbench selftest --short")
@click.option("--short", is_flag=True, help="bf16 and e4m3 on one short problem, and a tenth of the right kernels.")
def selftest(short: bool) -> None:
    """Plant known bugs into a right kernel and show that the checks catch each one, and accuse no right kernel.

    Prints who caught what. Exit status 1 where a bug escapes or a right kernel is accused. Two to four minutes on two cores.
    """
    from attnbench.selftest import run_selftest

    sys.exit(run_selftest(short, click.echo))


@main.group()
def kernels() -> None:
    """Our own Hopper kernels (kernels/): compile them, and read what the compiler made of them. Needs no GPU."""


@kernels.command(epilog="Example: attnbench kernels build fwd_overlap")
@click.argument("names", nargs=-1, metavar="[FILE]...")
@click.option("--force", is_flag=True, help="Compile again even where nothing changed.")
def build(names: tuple[str, ...], force: bool) -> None:
    """Compile kernels/*.cu for sm_90a with nvcc (PATH, CUDA_HOME or PyPI wheels), what changed only.

    A spill in a main loop, or a line of ptxas about serialized wgmma, is an error.
    """
    from attnbench.kernel_build import build_all
    from attnbench.kernel_table import build_line

    _told(build_all, names, force=force, report=lambda done: click.echo(build_line(done)))


@kernels.command(epilog="Example: attnbench kernels inspect fwd_overlap --json")
@click.argument("names", nargs=-1, metavar="[FILE]...")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--update", is_flag=True, help="Record the figures as the ones to hold (kernels/static.json).")
def inspect(names: tuple[str, ...], as_json: bool, update: bool) -> None:
    """Registers, spills, shared memory and instructions of every variant, held against limits and recorded figures.

    Exit status 1 where a limit is broken or a recorded figure has changed.
    """
    from attnbench.kernel_inspect import inspect_all
    from attnbench.kernel_static import update_recorded
    from attnbench.kernel_table import inspection_json, print_changes, print_inspection

    facts = _told(inspect_all, names)
    if update:
        _told(update_recorded, facts)
    if as_json:
        click.echo(inspection_json(facts))
        return
    sys.exit(1 if print_inspection(facts) + print_changes(facts) else 0)


def _told(function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls; a mistake of the user's becomes one line and exit status 2."""
    from attnbench.errors import user_errors

    try:
        return function(*arguments, **options)
    except user_errors() as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main()
