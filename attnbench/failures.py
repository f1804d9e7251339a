"""What a backend raised, as a reader of its record is told."""

from __future__ import annotations

import traceback
from pathlib import Path

from attnbench.paths import PACKAGE

REASON_CHARACTERS = 2000
# Frames named in a reason, innermost first.
PLACES = 3


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def raised(error: BaseException, note: str = "") -> str:
    """The error and where it came from, innermost first, without this machine's paths. note: to be said with it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_harness(Path(frame.filename))]
    innermost = reversed(frames[-PLACES:])
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in innermost)
    text = traceback.format_exception_only(error)[-1].strip()
    module = type(error).__module__
    if module.partition(".")[0] == PACKAGE.name:  # nobody who reads it asks where in the harness an error has its class
        text = text.removeprefix(f"{module}.")
    text = text[-REASON_CHARACTERS:] + (f": {note}" if note else "")
    return f"{text} ({places})" if places else text


def _is_harness(file: Path) -> bool:
    """Whether a frame is the harness's own; one of a backend that comes with it is not."""
    return file.is_relative_to(PACKAGE) and not file.is_relative_to(PACKAGE / "backends")
