"""What a backend's exception becomes in a record: its kind, and what happened where."""

from __future__ import annotations

import traceback
from pathlib import Path

from attnbench.backend import ContractError
from attnbench.timing.sampling import Unstable

REASON_CHARACTERS = 2000
OWN_FOLDER = Path(__file__).parent


def failure_kind(error: BaseException) -> str:
    if isinstance(error, (ContractError, Unstable)):
        return "contract" if isinstance(error, ContractError) else "unstable"
    return "oom" if is_out_of_memory(error) else "exception"


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def describe(error: BaseException) -> str:
    """The error and where it came from, innermost first, without this machine's paths."""
    if isinstance(error, (ContractError, Unstable)):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != OWN_FOLDER]
    frames = frames[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = traceback.format_exception_only(error)[-1].strip()[-REASON_CHARACTERS:]
    return f"{text} ({places})" if places else text
