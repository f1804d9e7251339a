"""What a machine could do at most: peak FLOP/s by architecture and SM count, never by the card's name.

Datasheet convention: dense peak = SMs x datasheet tensor-core clock x FLOP per clock and SM.
Sources: NVIDIA A100 whitepaper (108 SMs, 1.41 GHz, 312 TFLOPS), NVIDIA H100 whitepaper, tables 2 and 3 (132 SMs at
1.83 GHz, 989 TFLOPS; 114 SMs at 1.62 GHz, 756 TFLOPS).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Dense FLOP per clock and SM, by compute capability and dtype; 8 bits only where the tensor cores take it.
FLOP_PER_CLOCK_PER_SM: Mapping[tuple[int, int], Mapping[str, int]] = {
    (8, 0): {"fp16": 2048, "bf16": 2048},
    (9, 0): {"fp16": 4096, "bf16": 4096, "e4m3": 8192, "e5m2": 8192},
}
# Datasheet tensor-core clock. Parts with fewer SMs than the full card (MIG slices) run at the same clock.
CLOCK_HZ: Mapping[tuple[int, int], float] = {(8, 0): 1.41e9, (9, 0): 1.83e9}
# Where a card of the architecture departs from it: (capability, SMs) -> clock; None where no formula holds.
# NOTE: 78 SMs of compute capability 9.0 are an H20, whose tensor cores are cut to 148 TFLOPS: clock x SMs says 585.
CLOCK_HZ_BY_SM_COUNT: Mapping[tuple[tuple[int, int], int], float | None] = {
    ((9, 0), 114): 1.62e9,
    ((9, 0), 78): None,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run's environment says of the device it measured on; None where that was not recorded.

    gemm_flops_per_s: the run's own measured ceiling, a bf16 GEMM (its sentinels, or the environment's key
    `sentinels.gemm_flops_per_s`).
    """

    name: str
    compute_capability: tuple[int, int] | None = None
    sm_count: int | None = None
    gemm_flops_per_s: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, Any], sentinels: Sequence[Mapping[str, Any]] = ()) -> Machine:
        """The machine of a run, from its `environment.json` and sentinels; absent keys are absent facts, not errors."""
        gpu = gpu_of(environment)
        cpu = section(environment, "cpu")
        return cls(
            name=str(gpu.get("name") or cpu.get("model") or "a machine that was not recorded"),
            compute_capability=_capability(gpu.get("compute_capability")),
            sm_count=gpu.get("sm_count"),
            gemm_flops_per_s=gemm_flops_per_s(sentinels) or section(environment, "sentinels").get("gemm_flops_per_s"),
        )

    def peak_flops_per_s(self, dtype: str, observed_hz: float | None = None) -> float | None:
        """Dense peak in FLOP/s at the datasheet's clock, or at the SM clock that was observed; None where no peak is
        known (CPUs, unlisted architectures)."""
        capability, sm_count = self.compute_capability, self.sm_count
        if capability is None or not sm_count:
            return None
        per_clock = FLOP_PER_CLOCK_PER_SM.get(capability, {}).get(dtype)
        if per_clock is None:
            return None
        clock_hz = CLOCK_HZ_BY_SM_COUNT.get((capability, sm_count), CLOCK_HZ[capability])
        return None if clock_hz is None else sm_count * (observed_hz or clock_hz) * per_clock


def section(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the environment; empty where it is absent or not a mapping."""
    part = environment.get(name)
    return part if isinstance(part, Mapping) else {}


def gpu_of(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is recorded of the GPU that was measured on; empty without one, or where the run kept to the CPU."""
    if str(environment.get("device", "")).startswith("cpu"):
        return {}
    return {**section(environment, "gpu"), **section(section(environment, "worker"), "gpu")}


def _capability(value: Any) -> tuple[int, int] | None:
    """(9, 0) from "9.0", [9, 0] or 9.0."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(".") if value is not None else ()
    try:
        major, minor = (int(part) for part in parts)
    except ValueError:
        return None
    return major, minor


# Sentinels: fixed work measured at the start, every few minutes and at the end of a run, and what its drift says.
#
# A machine whose own GEMM or copy rate moved by more than DRIFT_LIMIT between two sentinels did not hold still: the run
# is suspect. Facts only, and how they are read; the work itself is in `timing.sentinel`.

START, PERIODIC, END = "start", "periodic", "end"
# A run with something left to time looks at the machine again after so long.
PERIOD_S = 300.0
DRIFT_LIMIT = 0.02
# The system's clock may be slewed by a time server; a jump of more than this was set by hand.
CLOCK_STEP_S = 1.0
GEMM, COPY = "gemm_flops_per_s", "copy_bytes_per_s"
_NAMES = {GEMM: "GEMM", COPY: "copy"}


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one figure moved over a run: (highest - lowest) / median, from `count` sentinels."""

    figure: str
    lowest: float
    highest: float
    relative: float
    count: int

    @property
    def name(self) -> str:
        return _NAMES[self.figure]


def drifts(rows: Sequence[Mapping[str, Any]]) -> tuple[Drift, ...]:
    """Of each figure that at least two sentinels hold."""
    found = []
    for figure in (GEMM, COPY):
        values = figures(rows, figure)
        if len(values) > 1:
            relative = (max(values) - min(values)) / statistics.median(values)
            found.append(Drift(figure, min(values), max(values), relative, len(values)))
    return tuple(found)


def gemm_flops_per_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The run's own bf16 GEMM rate, the median over its sentinels; None where there is none (a CPU's is fp32)."""
    values = figures([row for row in rows if row.get("gemm_dtype") == "bf16"], GEMM)
    return statistics.median(values) if values else None


def suspicions(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Why the run's numbers are not to be trusted, in words; () where nothing speaks against them."""
    return (*_drifted(rows), *_failed(rows), *_clock_set(rows))


def why_suspect(environment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """`suspicions`, and what the environment's key `suspect` says, which somebody wrote there."""
    given = environment.get("suspect")
    words = ("marked so in its environment",) if given is True else (str(given),) if given else ()
    return words + suspicions(rows)


def _drifted(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for drift in drifts(rows):
        if drift.relative > DRIFT_LIMIT:
            yield (
                f"its own {drift.name} rate moved by {drift.relative:.1%} over {drift.count} sentinels "
                f"({_rate(drift.figure, drift.lowest)} to {_rate(drift.figure, drift.highest)}, "
                f"limit {DRIFT_LIMIT:.0%})"
            )


def _failed(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    failed = [row for row in rows if row.get("error")]
    if failed:
        number = f"{len(failed)} of {len(rows)} sentinels"
        yield f"{number} could not be measured, the first at its {failed[0].get('role')}: {failed[0]['error']}"


def _clock_set(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """NOTE: times in records run on evenly (`sampling.SystemClock`); only the dates in them can be wrong."""
    steps = [row["clock_step_s"] for row in rows if abs(row.get("clock_step_s") or 0.0) > CLOCK_STEP_S]
    if steps:
        largest = max(steps, key=abs)
        yield f"the system's clock was set {'back' if largest < 0 else 'forward'} by {abs(largest):.4g} s while it ran"


def figures(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """The figure (GEMM or COPY) of every sentinel that holds it, in the order they were taken."""
    return [row[figure] for row in rows if isinstance(row.get(figure), (int, float)) and row[figure] > 0]


def _rate(figure: str, value: float) -> str:
    return f"{value / 1e12:.4g} TFLOPS" if figure == GEMM else f"{value / 1e9:.4g} GB/s"
