"""How the command line ends: a mistake is one line and exit status 2, an interruption 130, nothing a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from attnbench.errors import UserError

USAGE_ERROR = 2
INTERRUPTED = 130
# click 8.2 raises this where a group is called bare; before that it printed the help itself.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Mistake(click.ClickException):
    """A mistake of the user's: one line, exit status 2."""

    exit_code = USAGE_ERROR


class Commands(click.Group):
    """A group whose every mistake is one line on stderr, and whose interruption is exit status 130, as in a shell."""

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
        except click.Abort as abort:
            click.echo(f"attnbench: {str(abort) or 'interrupted'}", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # click would exit with 1, which means an incorrect result here; and Python would flush again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.Abort("interrupted: nobody reads the output any more") from None


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def reporting_mistakes(function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls; a mistake of the user's becomes one line and exit status 2."""
    try:
        return function(*arguments, **options)
    except UserError as error:
        raise Mistake(str(error)) from None


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, as a CI job gets it at its time-out, tidies up like Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
