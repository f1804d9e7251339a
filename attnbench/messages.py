"""What the parent of a measurement and its worker say to each other: jobs one way, events the other.

One JSON object a line, with the message's `type`. Private to the two ends, which are of one version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from attnbench.case import Case

if TYPE_CHECKING:
    from attnbench.settings import Checks, Timing


class MessageError(ValueError):
    """A line that is none of the messages below."""


# Jobs.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCase:
    """Check all backends of one case, then time them. process: which of several that measure the same.

    bits: a folder where outputs are left for, or compared with, those of other processes.
    """

    case: Case
    backends: tuple[str, ...]
    time: bool
    timing: Timing
    checks: Checks
    process: int = 0
    bits: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldBackend:
    """Check and prepare one backend, and keep it. arm: its label; checkout: a folder that nothing may come from."""

    case: Case
    backend: str
    time: bool
    timing: Timing
    checks: Checks
    process: int
    arm: str
    checkout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBlock:
    """Take one block of the held backend. call_s: what both arms take a call to last."""

    round: int
    growth: int
    call_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBackend:
    """Give the held backend's record, with its blocks where `timed`."""

    together: tuple[str, ...]
    order_seed: int
    timed: bool


@dataclass(frozen=True, slots=True)
class TakeSentinel:
    """Time the machine's own GEMM and copy."""


Job = RunCase | HoldBackend | TakeBlock | ReleaseBackend | TakeSentinel

# Events.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker can work; the first event. backends: name to why it cannot run here, or None.

    unasked: those that join a run which names none; given: those of --plugin.
    """

    facts: Mapping[str, Any]
    backends: Mapping[str, str | None]
    unasked: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The first event of a worker that cannot work."""

    reason: str


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    """What a backend does now, for the bar and the time-out."""

    backend: str
    phase: str


@dataclass(frozen=True, slots=True)
class RecordMade:
    """One a backend and job; `line` is what will be stored."""

    line: str


@dataclass(frozen=True, slots=True)
class BackendHeld:
    """After HoldBackend. call_s: None where it failed; strays: modules that were imported from the checkout."""

    call_s: float | None
    strays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockTaken:
    """After TakeBlock, unless the backend failed. lost_s: seconds of blocks that the machine spoilt."""

    done: bool
    lost_s: float


@dataclass(frozen=True, slots=True)
class SentinelTaken:
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobDone:
    """The last event of a job. spent_s: seconds by phase."""

    spent_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Poisoned:
    """The CUDA context is broken; the worker ends itself."""

    reason: str


Event = Ready | Refused | PhaseBegun | RecordMade | BackendHeld | BlockTaken | SentinelTaken | JobDone | Poisoned


_JOBS = {kind.__name__: kind for kind in get_args(Job)}
_EVENTS = {kind.__name__: kind for kind in get_args(Event)}


def to_line(message: Job | Event) -> str:
    """The message as one line, without its break."""
    values = {field.name: _plain(getattr(message, field.name)) for field in dataclasses.fields(message)}
    return json.dumps({"type": type(message).__name__, **values})


def job_of(line: str) -> Job:
    """Raises MessageError."""
    job: Job = _message(line, _JOBS)
    return job


def event_of(line: str | bytes) -> Event:
    """Raises MessageError."""
    event: Event = _message(line, _EVENTS)
    return event


def _message(line: str | bytes, kinds: Mapping[str, Any]) -> Any:
    try:
        values = json.loads(line)
        kind = kinds[values.pop("type")]
        annotations = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        return kind(**{name: _typed(annotations[name], value) for name, value in values.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageError(f"{error!r} in {line[:100]!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Case):
        return value.to_dict()
    return value.model_dump() if hasattr(value, "model_dump") else value


def _typed(kind: str, value: Any) -> Any:
    if kind == "Case":
        return Case.make(**value)
    if kind in ("Timing", "Checks"):
        from attnbench import settings  # pydantic is slow to import; only a worker reads jobs

        return getattr(settings, kind).model_validate(value)
    return tuple(value) if kind.startswith("tuple") else value
