"""The command line: parse, call one function, print. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from attnbench import __version__
from attnbench.cli.group import Commands, reporting_mistakes
from attnbench.cli.kernel_verbs import kernels
from attnbench.cli.options import (
    ALL,
    AT_LEAST,
    AXES,
    BACKENDS,
    DEVICE,
    FORCE,
    GITHUB,
    INTERPRET,
    JUNIT,
    MARGIN,
    ONLY,
    OVERWRITE,
    PATH,
    PLUGINS,
    SEED,
    STRICT,
    TIMEOUT,
    UNTRUSTED,
    Deliveries,
    Duration,
    backend_names,
    run_directories,
    suite_names,
)
from attnbench.cli.selftest import selftest


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Benchmarking and correctness harness for attention kernels.

    \b
    attnbench run quick                       check every backend, then time it
    attnbench report results/RUN -o report.md
    attnbench gate results/baselines results/RUN
    Shell completion: eval "$(_ATTNBENCH_COMPLETE=bash_source attnbench)"   (or zsh_source, fish_source)
    """


@main.command(
    short_help="Check every case, then time it; write a run directory.",
    epilog="Example: attnbench run quick --backend naive --only dtype=bf16 --out results/try",
)
@click.argument("suites", nargs=-1, metavar="[SUITE]...", shell_complete=suite_names)
@AXES
@BACKENDS
@ONLY
@PLUGINS
@DEVICE
@click.option("--out", type=PATH, help="The run directory, new or empty. With several suites, their parent.")
@click.option(
    "--resume", type=PATH, metavar="RUN", shell_complete=run_directories, help="Finish this run; repeats nothing."
)
@click.option("--no-time", is_flag=True, help="Check only.")
@click.option("--dry-run", is_flag=True, help="Print the cases and stop.")
@click.option("--print-suite", is_flag=True, help="Print the suite as YAML, with what the options change, and stop.")
@click.option("--budget", type=Duration(), help="Begin no case after so long, such as 15m.")
@TIMEOUT
@click.option("--show-output", is_flag=True, help="Print what kernels print, while they do.")
@SEED
@click.option("--generate", type=click.IntRange(min=1), metavar="N", help="Draw N cases too, by --seed; not timed.")
@click.option("--processes", type=click.IntRange(min=1), metavar="N", help="Measure every case in N fresh processes.")
@click.option("--emulated", is_flag=True, help="Our kernels of the suite in the CPU emulation, smallest cases first.")
@click.option(
    "--emulation", type=Deliveries(), metavar="DELIVERY[,...]",
    help="When emulated asynchronous work executes: lazy, eager, random[:SEED]; each call under all that are named.",
)  # fmt: skip
@click.option(
    "--emulation-checks", type=click.Choice(["full", "fast"]), help="fast: finds no races, in about half the time."
)
@INTERPRET
@UNTRUSTED
def run(suites: tuple[str, ...], **options: Any) -> None:
    """Check every case of SUITE on every backend against the fp64 oracle, then time it.

    Writes one run directory a suite, results/<utc time>-<suite>, and prints a summary.

    \b
    Without a file: attnbench run --axis head_dim=64,128 --axis seqlen=1k,2k --axis causal=true --plugin mine.py:mine
    (batch 1, num_heads 4, head_dim 128, seqlen 1k, dtype bf16 where no --axis sets them)
    Shapes drawn at random: attnbench run --generate 200 --plugin mine.py:mine

    \b
    Exit status: 0 all good; 1 a result is incorrect; 2 a mistake in the command or the suite; 3 incomplete;
    130 interrupted. Where several apply: 1 over 3.
    """
    from attnbench.cli.running.command import run_command

    sys.exit(reporting_mistakes(run_command, suites, **options))


@main.command(
    short_help="One kernel, one verdict: for loops and agents.",
    epilog="Example: attnbench judge kernel.py:mine --against cpu_flash --json",
)
@click.argument("candidate", metavar="FILE[:function]", required=False)
@click.option(
    "--suite", default="quick", show_default=True, shell_complete=suite_names, help="The cases: a name, a file."
)
@click.option(
    "--against", metavar="BACKEND", shell_complete=backend_names,
    help="What it has to be faster than (default: the fastest stock backend here).",
)  # fmt: skip
@PLUGINS
@INTERPRET
@click.option("--trusted", is_flag=True, help="Let it share the judge's process.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its schema: attnbench schema --judge.")
@click.option("--mcp", is_flag=True, help="Serve the same to agents by MCP, on stdin and stdout.")
@DEVICE
@click.option("--out", type=PATH, metavar="DIR", help="The run directory, new or empty.")
@click.option("--budget", type=Duration(), help="Begin no case after so long, such as 15m.")
@click.option(
    "--timeout", type=Duration(), default="30s", show_default=True, metavar="SECONDS",
    help="End a call that does not return within it.",
)  # fmt: skip
@SEED
@STRICT
def judge(candidate: str | None, mcp: bool, **options: Any) -> None:
    """Judge one kernel: right or wrong, faster than the incumbent or not, in one verdict.

    Its cases are checked untimed, the cheapest first, and judging stops at the first that fails. Only a kernel that is
    right in all of them is timed, in turns with the incumbent. Writes a run directory.

    \b
    Exit status: 0 right and not slower (promoted, correct); 1 wrong (incorrect) or slower; 2 a mistake in the command;
    3 it failed (error), or could not be compared; 4 inconclusive, only with --strict; 130 interrupted.
    """
    from attnbench.cli.judge import judge_verb

    sys.exit(reporting_mistakes(judge_verb, candidate, mcp, **options))


@main.command(
    short_help="Write a markdown report with plots.",
    epilog="Example: attnbench report results/20260101T120000Z-quick -o report.md",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH, shell_complete=run_directories)
@click.option(
    "-o", "--output", type=PATH, default=Path("report.md"), show_default=True,
    help="The markdown file; plots go beside it.",
)  # fmt: skip
@OVERWRITE
def report(runs: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Write a markdown report with plots from one or more run directories.

    A pure function of the run directories: the same records give the same bytes. Exit status 3 where something in them
    is unreadable; the rest is reported.
    """
    from attnbench.cli.report import report_command

    sys.exit(reporting_mistakes(report_command, runs, output, overwrite))


@main.command(
    short_help="Published claims beside what runs say of them.",
    epilog="Example: attnbench claims results/2026-11-25-fa3-* -o claims.md",
)
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=PATH, shell_complete=run_directories)
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write it here; printed without.")
@OVERWRITE
def claims(runs: tuple[Path, ...], output: Path | None, overwrite: bool) -> None:
    """Print the ledger of published claims: what each says, what tests it here, what run directories say of it.

    Markdown, but on a terminal lines that fit it.
    RUN: run directories; without any, all under results/.
    """
    from attnbench.claims.page import claims_lines, claims_page, write_claims
    from attnbench.screen import columns

    width = columns() if sys.stdout.isatty() else None  # a pipe gets the markdown
    if output is None and width is not None:
        click.echo("\n".join(reporting_mistakes(lambda: list(claims_lines(width, runs or None)))))
    elif output is None:
        click.echo(reporting_mistakes(claims_page, runs or None), nl=False)
    else:
        reporting_mistakes(write_claims, runs or None, output, overwrite)
        click.echo(f"claims: {output}")


@main.command(
    short_help="A verdict for every case of NEW against BASE.",
    epilog="Example: attnbench compare results/baselines results/20260101T120000Z-quick",
)
@click.argument("base", metavar="BASE", type=PATH, shell_complete=run_directories)
@click.argument("new", metavar="NEW", type=PATH, shell_complete=run_directories)
@MARGIN
@FORCE
@ALL
def compare(base: Path, new: Path, **options: Any) -> None:
    """A verdict for every case: slower, faster, same, inconclusive, not comparable, missing.

    BASE and NEW are run directories or folders of runs; BASE may also be a folder with one such folder a machine
    (results/baselines), of which the one of NEW's machine is taken. Runs that were not interleaved with each other
    need three or more in BASE: how far they lie apart says what a difference means.

    Exit status: 0 compared, whatever the verdicts; 2 a mistake in the command; 3 nothing was compared, there are too
    few stored runs, or a line of a run is unreadable.
    """
    from attnbench.cli.compare import compare_command

    sys.exit(reporting_mistakes(compare_command, base, new, **options))


@main.command(
    short_help="Compare, then an exit status for CI.",
    epilog="Example: attnbench gate results/baselines results/ci --margin 1% --junit gate.xml --github",
)
@click.argument("paths", nargs=-1, required=True, metavar="[BASE] NEW", type=PATH, shell_complete=run_directories)
@AT_LEAST
@MARGIN
@JUNIT
@OVERWRITE
@GITHUB
@STRICT
@FORCE
@ALL
def gate(paths: tuple[Path, ...], **options: Any) -> None:
    """Compare, then say by the exit status whether NEW may pass. BASE and NEW as in `attnbench compare`.

    Besides times it holds against BASE: right and wrong, errors against the oracle, peak memory, and the registers,
    spills and shared memory of our kernels. Floors hold backends of NEW against each other; then BASE may be left out.

    \b
    A baseline: attnbench run SUITE --out results/baselines/MACHINE/1, then the same into /2 and /3
    (MACHINE: "machine" in the run's environment.json). Of several equal runners with fewer runs than three each, one
    run of each counts, from three runners on.

    \b
    Exit status: 0 no regression; 1 a case is slower, wrong, below a floor, or grew; 2 a mistake in the command; 3 a
    case is missing, failed, not comparable or judged by less than BASE was, BASE has too few runs, nothing was
    compared, or a line is unreadable; 4 inconclusive, only with --strict. Where several apply: 1 over 3 over 4.
    """
    from attnbench.cli.compare import gate_command

    sys.exit(reporting_mistakes(gate_command, paths, **options))


@main.command(
    short_help="Two git revisions of your repository, timed in turns.",
    epilog="Example: attnbench ab --base main --head HEAD quick --plugin kernel.py:mine --build 'make -j'",
)
@click.argument("suite", metavar="SUITE", shell_complete=suite_names)
@click.option("--base", required=True, metavar="REF", help="The revision to hold against: a commit, branch or tag.")
@click.option("--head", required=True, metavar="REF", help="The revision to judge; . is the checkout as it is.")
@BACKENDS
@ONLY
@PLUGINS
@click.option("--build", metavar="COMMAND", help="Run this in each revision's folder first.")
@click.option("--processes", type=int, default=5, show_default=True, metavar="N", help="Fresh pairs of processes.")
@MARGIN
@DEVICE
@click.option("--out", type=PATH, metavar="DIR", help="Where base/ and head/ are written, new or empty.")
@click.option("--resume", type=PATH, metavar="DIR", help="Go on with the comparison that was begun there.")
@TIMEOUT
@JUNIT
@OVERWRITE
@GITHUB
@STRICT
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
    from attnbench.cli.ab import ab_command

    sys.exit(reporting_mistakes(ab_command, suite, **options))


@main.command(
    "list",
    short_help="Backends, suites, inputs, probes and metrics.",
    epilog="Example: attnbench list backends",
)
@click.argument("what", default="backends", type=click.Choice(["backends", "suites", "inputs", "probes", "metrics"]))
@click.option("--plugin", "plugins", multiple=True, metavar="SPEC", help="Name these too; they are not imported.")
def list_command(what: str, plugins: tuple[str, ...]) -> None:
    """What there is: backends (and why one cannot run here), suites, inputs, probes, metrics."""
    from attnbench.cli.listing import LISTINGS

    for line in reporting_mistakes(LISTINGS[what], plugins):
        click.echo(line)


@main.command(
    short_help="Print a script that reproduces one record.",
    epilog="Example: attnbench repro results/RUN bf16-d64-h8-b2-q512-k512-full-normal.0 naive > repro.py",
)
@click.argument("run_directory", metavar="RUN", type=PATH, shell_complete=run_directories)
@click.argument("case_key")
@click.argument("backend")
def repro(run_directory: Path, case_key: str, backend: str) -> None:
    """Print a standalone Python script that reproduces one record."""
    from attnbench.cli.report import repro_command

    sys.exit(reporting_mistakes(repro_command, run_directory, case_key, backend))


@main.command(
    short_help="Print the JSON Schema of the suite format.",
    epilog="Example: attnbench schema > attnbench.schema.json",
)
@click.option("--judge", is_flag=True, help="That of what `attnbench judge --json` prints instead.")
def schema(judge: bool) -> None:
    """Print the JSON Schema of the suite format, for editors."""
    import json

    if judge:
        from attnbench.judge.judgement import json_schema
    else:
        from attnbench.suite.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command(
    short_help="Is this machine fit to measure, and what would mend it?",
    epilog="Example: attnbench doctor",
)
def doctor() -> None:
    """Is this machine fit to measure? What is missing, and the command that mends it. Exit status 3 where it is not."""
    from attnbench.cli.doctor import run_doctor

    sys.exit(run_doctor())


@main.command(
    short_help="What a backend does where libraries differ.",
    epilog="Example: attnbench behaviour naive cpu_flash --plugin mine.py:mine",
)
@click.argument("backends", nargs=-1, metavar="[BACKEND]...", shell_complete=backend_names)
@PLUGINS
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def behaviour(backends: tuple[str, ...], plugins: tuple[str, ...], as_json: bool) -> None:
    """What a backend does where attention libraries differ: alignment, rows without keys, NaN, scale, LSE.

    Each question is a small problem on the CPU, posed in a process of its own. Nothing is judged. Without names, the
    plugins' backends are asked. Markdown where the output is no terminal.
    """
    from attnbench.behaviour import table
    from attnbench.plugins import check_spec
    from attnbench.screen import columns

    for spec in plugins:
        reporting_mistakes(check_spec, spec)
    found = reporting_mistakes(table.asked, backends, plugins)
    if as_json:
        click.echo(table.as_json(found))
    elif (width := columns()) is None:
        click.echo(table.markdown(found), nl=False)
    else:
        click.echo("\n".join(table.lines(found, width)))


main.add_command(kernels)
main.add_command(selftest)
