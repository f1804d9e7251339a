"""How the command line ends: a mistake is one line and exit status 2, an interruption 130, a fault of its own 70."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from attnbench import __version__
from attnbench.cli.streams import outlived
from attnbench.errors import UserError
from attnbench.printable import log_text, printable

USAGE_ERROR = 2
INCOMPLETE = 3
# EX_SOFTWARE of sysexits.h.
FAULT = 70
INTERRUPTED = 130
# click 8.2 raises this where a group is called bare; before that it printed the help itself.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Mistake(click.ClickException):
    """A mistake of the user's, or a file that cannot be read: one line, and the exit status that goes with it."""

    def __init__(self, error: UserError) -> None:
        super().__init__(log_text(printable(str(error))))
        self.exit_code = error.status  # type: ignore[misc]  # click reads it from the instance


class Commands(click.Group):
    """A group whose every mistake is one line on stderr, and whose interruption is exit status 130, as in a shell.

    What nobody foresaw is exit status 70 with the text for a report, and never a status that means something else.
    """

    def main(self, *arguments: Any, **options: Any) -> Any:
        with outlived() as streams:
            status = self._status(*arguments, **options)
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
            lost = next((stream.failure for stream in streams if stream.failure), None)
            if lost is not None:
                click.echo(f"attnbench: output could not be written: {lost.strerror}", err=True)
                status = status or INCOMPLETE
        sys.exit(status)

    def _status(self, *arguments: Any, **options: Any) -> int:
        try:
            status = super().main(*arguments, **{**options, "standalone_mode": False})
        except SystemExit as end:
            status = end.code
        except NO_ARGUMENTS as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            line = _printable(" ".join(error.format_message().split()))
            click.echo(f"attnbench: {line}{_help_hint(error)}", err=True)
            status = error.exit_code
        except click.Abort as abort:
            click.echo(f"attnbench: {str(abort) or 'interrupted'}", err=True)
            status = INTERRUPTED
        except Exception as error:
            click.echo(fault_text(error), err=True)
            status = FAULT
        return status if isinstance(status, int) else 0

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # click would exit with 1, which means an incorrect result here; and Python would flush again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.Abort("interrupted: nobody reads the output any more") from None


def fault_text(error: Exception) -> str:
    """What a report of a fault of attnbench itself needs."""
    told = "".join(traceback.format_exception(error)).rstrip()
    return (
        f"attnbench: a fault of attnbench itself, exit status {FAULT}; please report it with the lines below, once you "
        f"have seen that they hold nothing confidential\n"
        f"attnbench {__version__}, Python {platform.python_version()}, {platform.platform()}\n{told}"
    )


def _printable(text: str) -> str:
    """Without control characters, which a name may hold and a terminal would obey."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def reporting_mistakes(function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls; a mistake of the user's becomes one line and exit status 2."""
    try:
        return function(*arguments, **options)
    except UserError as error:
        raise Mistake(error) from None


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
