"""What a backend raises, as the record that it becomes, and what is put to rights after each of its steps.

Everything wide is caught here, at the worker's edge, and becomes a status; what kills the process becomes one in `run`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from attnbench.backend import ContractError, HazardError, RemoteError, UnsupportedError
from attnbench.breakpoints import NO_TERMINAL, NoTerminalError, is_debugger_quitting
from attnbench.failures import is_out_of_memory, raised
from attnbench.records.record import Record
from attnbench.timing.sampling import Unstable
from attnbench.worker.prepared import WrongWhenTimed

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem

T = TypeVar("T")
# Ahead of the reason of an error that came after the check.
DURING = "while being timed: "


def guarded(problem: Problem, base: Record, step: Callable[[], T], when: str = "") -> T | Record:
    """What the step returns, or the record of what a backend raised in it; then the checked inputs are whole again."""
    try:
        return _looked_after(problem, base.backend, step)
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt) and _hears_ctrl_c():
            raise
        if isinstance(error, WrongWhenTimed):
            return error.record
        try:
            problem.inputs_written()
        except Exception:  # inputs that cannot even be read again, after a CUDA error or a resize
            problem.forget()
        if isinstance(error, UnsupportedError):
            return replace(base, status="unsupported", kind=None, reason=str(error), kernel=None, accuracy=None)
        return replace(base, status="error", kind=failure_kind(error), reason=when + describe(error))


def _looked_after(problem: Problem, backend: str, step: Callable[[], T]) -> T:
    """What the step returns. Raises what it raises, and TamperedError."""
    try:
        return step()
    finally:
        if problem.integrity is not None:
            problem.integrity.look(backend)


def _hears_ctrl_c() -> bool:
    """Whether a KeyboardInterrupt may be the user's: a worker ignores SIGINT, so that there it is the backend's own."""
    return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def failure_kind(error: BaseException) -> str:
    if isinstance(error, (ContractError, Unstable)):
        return "contract" if isinstance(error, ContractError) else "unstable"
    if isinstance(error, RemoteError):
        return error.kind
    if isinstance(error, HazardError):
        return "hazard"
    return "oom" if is_out_of_memory(error) else "exception"


def describe(error: BaseException) -> str:
    """The error and where it came from, innermost first, without this machine's paths."""
    if isinstance(error, (ContractError, HazardError, NoTerminalError, RemoteError, Unstable)):
        return str(error)
    return raised(error, NO_TERMINAL if is_debugger_quitting(error) else "")
