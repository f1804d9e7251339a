"""What stops jax's interpreters, in one line: a fault of the kernel, or something that they do not know."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import PurePath

from attnbench.backend import HazardError, UnsupportedError

OTHER = {"hlo": "tpu", "tpu": "hlo"}
# Where a kernel that was traced already is interpreted: an error from here is none of its own.
INTERPRETERS = ("hlo_interpreter.py", "interpret_pallas_call.py", "shared_memory.py")
# How messages begin that say what a TPU would not survive.
RACE = "RACE DETECTED"
FAULTS = ("Out-of-bounds", "Revisited block")


def explained(error: Exception, mode: str, kernels: Sequence[str], raised: Sequence[BaseException]) -> Exception:
    """A hazard, or that the interpreter cannot; otherwise the error as it is. raised: by an interpreter's callbacks."""
    inner = raised[0] if raised else error
    if RACE in str(inner):
        return HazardError(hazard_told(kernels, [str(inner)]))
    kind, message = type(inner).__name__, plain(str(inner).strip().partition("\n")[0])
    if message.startswith(FAULTS):
        return HazardError(message.rstrip(".") + place_of(inner))
    if "Only interpret mode is supported on CPU" in message:
        return UnsupportedError("its kernel was traced before the interpreter was asked for, or without jax.jit")
    if "is not supported by dot_general on CPU" in message:
        return UnsupportedError(f"{message}: XLA has no such dot there")
    frames = {PurePath(frame.filename).name for frame in traceback.extract_tb(inner.__traceback__)}
    if not isinstance(error, UnsupportedError) and (raised or frames.intersection(INTERPRETERS)):
        return UnsupportedError(f"jax's {mode} interpreter stops at {kind}: {message}; try --interpret={OTHER[mode]}")
    if "tpu_info.py" in frames:
        return UnsupportedError(f"it asks which TPU it runs on ({message})")
    return error


def place_of(error: BaseException) -> str:
    """` (file.py:line)` of the kernel's operation; "" where jax does not tell it: of copies that a grid makes."""
    chain = list[BaseException]()
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    for one in chain:
        if type(one).__name__ == "JaxStackTraceBeforeTransformation":
            frames = traceback.extract_tb(one.__traceback__)
            own = [frame for frame in frames if "site-packages/jax/" not in frame.filename]
            if own:
                return f" ({PurePath(own[-1].filename).name}:{own[-1].lineno})"
    return ""


def plain(message: str) -> str:
    """Without paths of this machine."""
    return re.sub(r"(?:/[^\s/:'\"]+)+/([^\s/:'\"]+)", r"\1", message)


def hazard_told(kernels: Sequence[str], told: Sequence[str]) -> str:
    """The first of what an interpreter told of races, semaphores and blocks outside of an array."""
    name = kernels[-1] if kernels else "a kernel"
    if "lies outside" in told[0]:
        return told[0]
    if RACE not in told[0]:
        return f"{name}: a semaphore is not 0 when the kernel ends: a copy or a signal that nobody waits for"
    accesses = re.findall(r"(read|write) of \('(\w+)'[^\n]* from (?:[^\n]*?(\S+\.py):(\d+))?", told[0])
    sides = [f"a {what} at {PurePath(file).name}:{line}" if file else f"a {what} of the grid's own"
             for what, _, file, line in accesses]  # fmt: skip
    memory = accesses[0][1] if accesses else "memory"
    return f"{name}: a race in {memory}: no semaphore orders {' and '.join(sides)}"
