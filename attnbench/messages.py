"""What the parent of a measurement and its worker say to each other: jobs one way, events the other.

One JSON object a line, with the message's `type`. Private to the two ends, which are of one version. Named tuples and
no dataclasses, which take four times as long to define: every start of a worker waits for this module.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from attnbench.case import Case

if TYPE_CHECKING:
    from attnbench.settings import Checks, Emulation, Timing


# At this signal a worker writes its stacks into a file that its parent reads; no kernel that hangs can prevent it.
STACKS_SIGNAL = signal.SIGUSR1
# Whether plugins share the process that judges them.
TRUST = TRUSTED, UNTRUSTED = "trusted", "untrusted"


class MessageError(ValueError):
    """A line that is none of the messages below."""


# Jobs.


class RunCase(NamedTuple):
    """Check all backends of one case, then time them. process: which of several that measure the same.

    bits: a folder where outputs are left for, or compared with, those of other processes. emulation: how emulated
    kernels are launched; None: as they are by default. seed: of what a kernel must not know beforehand. hold: keep what
    passes for `PrepareArms` or `TimeHeld`, and time nothing yet.
    """

    case: Case
    backends: tuple[str, ...]
    time: bool
    timing: Timing
    checks: Checks
    process: int = 0
    bits: str | None = None
    emulation: Emulation | None = None
    seed: int | None = None
    hold: bool = False


# The turns of backends that are held in two processes: those of a case whose plugins share no process with the others.


class PrepareArms(NamedTuple):
    """Prepare and warm up backends that are held. labels: of their blocks, by name; others: how many are held in
    another process, and need memory too."""

    labels: Mapping[str, str]
    others: int
    process: int


class TakeTurn(NamedTuple):
    """One block of one of them."""

    backend: str
    round: int
    growth: int


class AskEnough(NamedTuple):
    """Whether an arm has enough samples, or would not have with `more` times as many either."""

    backend: str
    more: float


class ReleaseArms(NamedTuple):
    """The records of all arms. early: whether the turns ended since all had enough."""

    together: tuple[str, ...]
    order_seed: int
    early: bool


class TimeHeld(NamedTuple):
    """Time what is held in this process alone. reason: why not with the others; "" where there are none."""

    process: int
    reason: str


class HoldBackend(NamedTuple):
    """Check and prepare one backend, and keep it. arm: its label; checkout: a folder that nothing may come from."""

    case: Case
    backend: str
    time: bool
    timing: Timing
    checks: Checks
    process: int
    arm: str
    checkout: str


class TakeBlock(NamedTuple):
    """Take one block of the held backend. call_s: what both arms take a call to last."""

    round: int
    growth: int
    call_s: float


class ReleaseBackend(NamedTuple):
    """Give the held backend's record, with its blocks where `timed`."""

    together: tuple[str, ...]
    order_seed: int
    timed: bool


class TakeSentinel(NamedTuple):
    """Time the machine's own GEMM and copy."""


Job = (
    RunCase
    | PrepareArms
    | TakeTurn
    | AskEnough
    | ReleaseArms
    | TimeHeld
    | HoldBackend
    | TakeBlock
    | ReleaseBackend
    | TakeSentinel
)

# Events.


class Ready(NamedTuple):
    """The worker can work; the first event. backends: name to why it cannot run on this device here, or None.

    unasked: those that join a run which names none; given: those of --plugin. languages: of kernels, as far as the
    plugins imported one that has an interpreter.
    """

    facts: Mapping[str, Any]
    backends: Mapping[str, str | None]
    unasked: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class Refused(NamedTuple):
    """The first event of a worker that cannot work."""

    reason: str


class PhaseBegun(NamedTuple):
    """What a backend does now, for the bar and the time-out."""

    backend: str
    phase: str


class RecordMade(NamedTuple):
    """One a backend and job; `line` is what will be stored."""

    line: str


class CheckPassed(NamedTuple):
    """A backend was right and is to be timed; `line` is its record so far, should timing cost the worker's life."""

    line: str


class BackendHeld(NamedTuple):
    """After HoldBackend. call_s: None where it failed; strays: modules that were imported from the checkout."""

    call_s: float | None
    strays: tuple[str, ...] = ()


class BlockTaken(NamedTuple):
    """After TakeBlock, unless the backend failed. lost_s: seconds of blocks that the machine spoilt."""

    done: bool
    lost_s: float


class ArmsReady(NamedTuple):
    """After PrepareArms. limits_s: of each that is warm, how long its samples may take; reason: why they cannot all be
    held at the same time, "" where they can."""

    limits_s: Mapping[str, float]
    reason: str = ""


class TurnTaken(NamedTuple):
    """After TakeTurn, unless the backend failed. lost_s: seconds of its blocks that the machine spoilt."""

    lost_s: float


class ArmEnough(NamedTuple):
    """After AskEnough."""

    enough: bool


class SentinelTaken(NamedTuple):
    figures: Mapping[str, Any]


class JobDone(NamedTuple):
    """The last event of a job. spent_s: seconds by phase."""

    spent_s: Mapping[str, float] = MappingProxyType({})


class Poisoned(NamedTuple):
    """The process can be trusted no more, a broken CUDA context for instance; the worker ends itself."""

    reason: str


Event = (
    Ready
    | Refused
    | PhaseBegun
    | RecordMade
    | CheckPassed
    | BackendHeld
    | BlockTaken
    | ArmsReady
    | TurnTaken
    | ArmEnough
    | SentinelTaken
    | JobDone
    | Poisoned
)


_JOBS = {kind.__name__: kind for kind in get_args(Job)}
_EVENTS = {kind.__name__: kind for kind in get_args(Event)}


def to_line(message: Job | Event) -> str:
    """The message as one line, without its break."""
    values = {name: _plain(value) for name, value in message._asdict().items()}
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
        annotations = kind.__annotations__
        return kind(**{name: _typed(annotations[name], value) for name, value in values.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageError(f"{error!r} in {line[:100]!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Case):
        return value.to_dict()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    return dict(value) if isinstance(value, Mapping) else value


def _typed(annotation: Any, value: Any) -> Any:
    kind = getattr(annotation, "__forward_arg__", annotation)  # as NamedTuple keeps it
    if kind == "Case":
        return Case.make(**value)
    kind = str(kind).removesuffix(" | None")
    if kind in ("Timing", "Checks", "Emulation") and value is not None:
        from attnbench import settings  # pydantic is slow to import; only a worker reads jobs

        return getattr(settings, kind).model_validate(value)
    return tuple(value) if kind.startswith("tuple") else value
