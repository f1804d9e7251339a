"""A worker has no terminal: what a `breakpoint()` in a kernel says there instead of waiting for nobody."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

NO_TERMINAL = (
    "a worker has no terminal; `attnbench repro RUN CASE_KEY BACKEND > repro.py` writes a script that makes this call, "
    "and stops here"
)


class NoTerminalError(Exception):
    """What `breakpoint()` raises."""


def breakpointhook(*arguments: Any, **named: Any) -> NoReturn:
    """For `sys.breakpointhook`."""
    raise NoTerminalError(f"breakpoint(): {NO_TERMINAL}")


def is_debugger_quitting(error: BaseException) -> bool:
    """Whether a debugger that was started in another way found no input and gave up."""
    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(error, bdb.BdbQuit)
