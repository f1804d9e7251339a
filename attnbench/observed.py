"""What the machine did while a measurement was taken: the conditions of its blocks, weighted by their length."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnbench.measurement import Block, Conditions, Measurement

# The driver renews its energy counter every 20 to 100 ms, and H100 looks at its power for 25 ms of every 100 (Z. Yang,
# K. Adamek, W. Armour, "Part-time power measurements: nvidia-smi's lack of attention", arXiv:2312.02741, 2023): what
# either says of a block of 20 ms, in turns with another kernel's, is the other's as well.
LEAST_POWER_SPAN_S = 0.5
# A block's power is the call's where the call had this share of the block; the rest is the spin that hides launches,
# which takes less power, and what the host did in between.
LEAST_BUSY = 0.9


@dataclass(frozen=True, slots=True)
class Observed:
    """None where no block knows it. Temperatures: the highest; power: see `power_w`; the rest: means over time."""

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    cpu_clock_mhz: float | None = None
    load: float | None = None
    stolen: float | None = None

    @classmethod
    def of(cls, measurement: Measurement) -> Observed:
        blocks = _watched(measurement)
        return cls(
            sm_clock_mhz=sm_clock_mhz(measurement),
            power_w=power_w(measurement),
            temperature_c=_most(blocks, lambda seen: seen.temperature_c),
            memory_temperature_c=_most(blocks, lambda seen: seen.memory_temperature_c),
            cpu_clock_mhz=_mean(blocks, lambda seen: seen.cpu_clock_mhz),
            load=_mean(blocks, lambda seen: seen.load),
            stolen=_mean(blocks, lambda seen: seen.stolen),
        )


def sm_clock_mhz(measurement: Measurement) -> float | None:
    return _mean(_watched(measurement), lambda seen: seen.sm_clock_mhz)


def power_w(measurement: Measurement) -> float | None:
    """Of blocks that are long enough and busy with the call: from the energy counter, else from power readings."""
    blocks = [block for block in _watched(measurement) if _tells_power(block, measurement.calls_per_sample)]
    counted = [block.conditions for block in blocks if (block.conditions.energy_span_s or 0.0) >= LEAST_POWER_SPAN_S]
    if counted:
        return sum(seen.energy_j for seen in counted) / sum(seen.energy_span_s for seen in counted)
    return _mean(blocks, lambda seen: seen.power_w)


def _tells_power(block: Block, calls_per_sample: int) -> bool:
    busy_s = statistics.fmean(block.samples_s) * block.sample_count * calls_per_sample
    return block.duration_s >= LEAST_POWER_SPAN_S and busy_s >= LEAST_BUSY * block.duration_s


def _watched(measurement: Measurement) -> list[Block]:
    return [block for block in measurement.blocks if block.conditions is not None]


def _mean(blocks: Sequence[Block], of: Callable[[Conditions], float | None]) -> float | None:
    """Mean over time; where no block says how long it lasted, over blocks."""
    known = [(of(block.conditions), block.duration_s) for block in blocks if of(block.conditions) is not None]
    if not known:
        return None
    total_s = sum(duration_s for _, duration_s in known)
    if total_s <= 0:
        return statistics.fmean(value for value, _ in known)
    return sum(value * duration_s for value, duration_s in known) / total_s


def _most(blocks: Sequence[Block], of: Callable[[Conditions], float | None]) -> float | None:
    return max((value for value in (of(block.conditions) for block in blocks) if value is not None), default=None)
