"""`attnbench selftest`: its options, and what it prints."""

from __future__ import annotations

import sys

import click


@click.command(
    short_help="Plant known bugs: do the checks catch each one?",
    epilog="Example: attnbench selftest --short",
)
@click.option("--short", is_flag=True, help="bf16 and e4m3 on one short problem, and a tenth of the right kernels.")
@click.option("--cheats", is_flag=True, help="Plant kernels that want a false figure instead, trusted and --untrusted.")
def selftest(short: bool, cheats: bool) -> None:
    """Plant known bugs into a right kernel and show that the checks catch each one, and accuse no right kernel.

    Prints who caught what. Exit status 1 where a bug escapes, a right kernel is accused or a cheat fares otherwise than
    it is known to. Two to four minutes on two cores, and five with --cheats.
    """
    from attnbench.cli.running.terminal import watched
    from attnbench.screen import columns, wrapped

    def say(line: str) -> None:
        click.echo("\n".join(wrapped(line)))

    if cheats:
        from attnbench.selftest.cheated import run_cheats

        sys.exit(run_cheats(say))
    from attnbench.selftest.runner import run_selftest

    sys.exit(run_selftest(short, say, watched, columns()))
