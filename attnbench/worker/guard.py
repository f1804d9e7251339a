"""What a backend raises, as the record that it becomes, and what is put to rights after each of its steps.

Everything wide is caught here, at the worker's edge, and becomes a status; what kills the process becomes one in `run`.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attnbench.backend import ContractError, HazardError, UnsupportedError
from attnbench.paths import PACKAGE
from attnbench.records.record import Record
from attnbench.timing.sampling import Unstable
from attnbench.worker.breakpoints import NO_TERMINAL, NoTerminalError, is_debugger_quitting
from attnbench.worker.prepared import WrongWhenTimed

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem

T = TypeVar("T")
# Ahead of the reason of an error that came after the check.
DURING = "while being timed: "
REASON_CHARACTERS = 2000


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
    if isinstance(error, HazardError):
        return "hazard"
    return "oom" if is_out_of_memory(error) else "exception"


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def describe(error: BaseException) -> str:
    """The error and where it came from, innermost first, without this machine's paths."""
    if isinstance(error, (ContractError, HazardError, NoTerminalError, Unstable)):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_harness(Path(frame.filename))][
        -3:
    ]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = traceback.format_exception_only(error)[-1].strip()
    module = type(error).__module__
    if module.partition(".")[0] == PACKAGE.name:  # nobody who reads it asks where in the harness an error has its class
        text = text.removeprefix(f"{module}.")
    text = text[-REASON_CHARACTERS:]
    if is_debugger_quitting(error):
        text += f": {NO_TERMINAL}"
    return f"{text} ({places})" if places else text


def _is_harness(file: Path) -> bool:
    """Whether a frame is the harness's own; one of a backend that comes with it is not."""
    return file.is_relative_to(PACKAGE) and not file.is_relative_to(PACKAGE / "backends")
