"""Raw timing of one backend on one case: blocks of samples in seconds, and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any, overload

from annotated_types import Ge, Le

from attnbench.printable import one_line

# Raw samples kept of a block, evenly thinned; more would only fill disks, the statistics are the same.
KEPT_SAMPLES = 512
# A flag: the backend keeps copies of its inputs and was prepared anew ahead of each call, since their numbers change.
PREPARED_ANEW = "prepared_anew"
# `PrepTiming.about` where the backend has no quantizer of its own.
REFERENCE_PREP = "attnbench's reference quantizer"
# `Measurement.peak_by`: torch's allocator, to the byte; the process's resident memory, by the page, where a backend
# takes memory elsewhere as well.
ALLOCATOR, PROCESS = "allocator", "process"
# A flag that readers act on: two clusters of samples with nothing between them (`stats.two_speeds`), so that the median
# is no speed of the call.
TWO_SPEEDS = "two_speeds"


# What a stored number may be: beyond it are no facts, and numbers that spoil what is computed from them. A call takes
# longer than a picosecond and less than thirty years.
LARGEST_COUNT = 2**53
SHORTEST_S, LONGEST_S = 1e-12, 1e9
Count = Annotated[int, Ge(0), Le(LARGEST_COUNT)]
Seconds = Annotated[float, Ge(0), Le(LONGEST_S)]
Moment = Annotated[float, Ge(-1e12), Le(1e12)]
Reading = Annotated[float, Ge(-1e15), Le(1e15)]


class RecordError(ValueError):
    """A record that would state something untrue, or a stored line that is no record."""


def made_printable(thing: Any, *names: str, by: Callable[[str], str] = one_line) -> None:
    """Makes the texts of these fields of a frozen object printable: a text, a tuple of them, the keys of a mapping."""
    for name in names:
        value = getattr(thing, name)
        if isinstance(value, str):
            shown: Any = by(value)
        elif isinstance(value, Mapping):
            shown = {by(key): item for key, item in value.items()}
        else:
            shown = tuple(by(text) for text in value)
        object.__setattr__(thing, name, shown)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine did while a block was taken, from telemetry samples joined by time; None: not known.

    sm_clock_spread: (highest - lowest) / highest; energy_j was used in energy_span_s, at most the block's length;
    temperatures are the highest seen; reasons: why the driver held clocks down, as `machine.nvml` names them.
    cpu_clock_mhz: mean over the CPUs allowed; load: the system's load average; stolen: the share of CPU time that
    the host of a virtual machine took. problems: queries that failed meanwhile, in words.
    """

    telemetry_samples: Count = 0
    sm_clock_mhz: Reading | None = None
    sm_clock_spread: Reading | None = None
    memory_clock_mhz: Reading | None = None
    power_w: Reading | None = None
    power_limit_w: Reading | None = None
    energy_j: Reading | None = None
    energy_span_s: Reading | None = None
    temperature_c: Reading | None = None
    memory_temperature_c: Reading | None = None
    reasons: tuple[str, ...] = ()
    cpu_clock_mhz: Reading | None = None
    load: Reading | None = None
    stolen: Reading | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not "".join((*self.reasons, *self.problems)).isprintable():
            made_printable(self, "reasons", "problems")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Conditions:
        """From a mapping such as `known_facts` makes."""
        texts = {name: tuple(row[name]) for name in ("reasons", "problems") if name in row}
        return cls(**{**row, **texts} if texts else row)


@dataclass(frozen=True, slots=True)
class Block:
    """Samples taken without interruption: seconds per call, in time order; of `sample_count`, KEPT_SAMPLES are kept.

    duration_s: from the first sample's start to the last one's end, 0 where it was not recorded.
    """

    samples_s: tuple[float, ...]
    sample_count: Count
    process: Count = 0
    round: Count = 0
    arm: str = ""
    start_s: Moment = 0.0  # seconds since the epoch at the block's first sample
    duration_s: Moment = 0.0
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        if not self.arm.isprintable():
            made_printable(self, "arm")
        if not self.duration_s >= 0:
            raise RecordError(f"a block that lasted {self.duration_s:g} s; a clock went backwards")
        if not self.samples_s:
            raise RecordError("a block without samples; missing is never zero")
        if not (min(self.samples_s) >= SHORTEST_S and sum(self.samples_s) <= LONGEST_S):
            raise RecordError("a block holds a sample that is not a positive, finite number of seconds")
        if len(self.samples_s) > min(self.sample_count, KEPT_SAMPLES):
            kept, taken = len(self.samples_s), self.sample_count
            raise RecordError(f"a block keeps {kept} samples of {taken} taken; it may keep {KEPT_SAMPLES} of them")


@dataclass(frozen=True, slots=True)
class PrepTiming:
    """Preparation that use repeats for every call (quantization), timed by the measurement's timer.

    about: whose it is; samples_s: each the mean over `calls_per_sample` calls of it; cache: cold where it was emptied
    ahead of each call.
    """

    about: str
    samples_s: tuple[float, ...]
    calls_per_sample: Count
    cache: str

    def __post_init__(self) -> None:
        if not (self.about + self.cache).isprintable():
            made_printable(self, "about", "cache")
        if not self.samples_s or not (min(self.samples_s) >= SHORTEST_S and sum(self.samples_s) <= LONGEST_S):
            raise RecordError("a timed preparation needs samples, positive and finite; missing is never zero")
        if self.calls_per_sample < 1:
            raise RecordError("a timed preparation of no calls")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw timing. Each sample is the mean over `calls_per_sample` back-to-back calls.

    outliers: (block, sample) pairs whose modified Z score is over 10; flagged, never removed.
    unmet: the stopping rule's conditions that were not reached when time ran out; empty when it converged.
    prep_s: wall time of everything that `prepare` did once; prep_call: what of the preparation use repeats for every
    call, None where nothing is, or where nobody timed it. compile_s: the very first prepare and call, beyond a later
    call. peak_bytes: memory at its peak while one preparation and call ran, above what was held before them, inputs
    included; None where it is not known. peak_by: who counted it, ALLOCATOR or PROCESS.
    input_sets: how many input sets were rotated, so that the cache is cold.
    together: the arms that took turns with this one, itself among them, in the order of their labels; empty where it
    was timed alone. order_seed: what made the order of turns (`rounds.orders`). Blocks of two measurements with the
    same `together` and `order_seed` pair by (process, round).
    handover_s: of a call in a process of its own, what each sample was relieved of: the median time of an empty
    hand-over of `calls_per_sample` calls. None where calls are made in this process.
    discarded: cause -> how many blocks were spoilt by the machine; their samples are in no number.
    flags: what was unusual about the blocks that were kept (`power_capped`, `clock_varied`, `host_bound`, ...).
    """

    blocks: tuple[Block, ...]
    timer: str
    regime: str
    cache: str
    calls_per_sample: Count
    converged: bool
    unmet: tuple[str, ...] = ()
    outliers: tuple[tuple[int, int], ...] = ()
    input_sets: Count = 1
    warmup_s: Seconds = 0.0
    prep_s: Seconds = 0.0
    compile_s: Seconds = 0.0
    peak_bytes: Count | None = None
    peak_by: str = ALLOCATOR
    discarded: Mapping[str, Count] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    order_seed: Count | None = None
    prep_call: PrepTiming | None = None
    handover_s: Seconds | None = None

    def __post_init__(self) -> None:
        texts = (self.timer, self.regime, self.cache, self.peak_by, *self.unmet, *self.flags, *self.together)
        if not "".join((*texts, *self.discarded)).isprintable():
            made_printable(self, "timer", "regime", "cache", "peak_by", "unmet", "flags", "together", "discarded")
        if not self.blocks:
            raise RecordError("a measurement without samples; missing is never zero")
        if self.converged == bool(self.unmet):
            raise RecordError("a measurement either converged or says which conditions were not met")
        if self.calls_per_sample < 1 or self.input_sets < 1:
            raise RecordError("a measurement of no calls, or on no inputs")
        for block, sample in self.outliers:
            if not (0 <= block < len(self.blocks) and 0 <= sample < len(self.blocks[block].samples_s)):
                raise RecordError(f"outlier ({block}, {sample}) is no sample of this measurement")

    @property
    def samples_s(self) -> tuple[float, ...]:
        """All kept samples, in time order."""
        return tuple(chain.from_iterable(block.samples_s for block in self.blocks))

    @property
    def as_used(self) -> Measurement:
        """What comparisons use: with PREPARED_ANEW a call costs what preparing does, too, which stands in no sample."""
        if PREPARED_ANEW not in self.flags:
            return self
        blocks = (replace(each, samples_s=tuple(one + self.prep_s for one in each.samples_s)) for each in self.blocks)
        return replace(self, blocks=tuple(blocks))


@overload
def known_facts(conditions: dict[str, Any]) -> dict[str, Any]: ...


@overload
def known_facts(conditions: None) -> None: ...


def known_facts(conditions: dict[str, Any] | None) -> dict[str, Any] | None:
    """Conditions as a mapping, without what is not known: a record may hold hundreds of blocks."""
    return conditions and {name: value for name, value in conditions.items() if value not in (None, ())}
