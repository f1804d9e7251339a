"""The machine of a run as its `environment.json` tells, and what it could do at most.

Peak FLOP/s follow from architecture and SM count, never from the card's name. Datasheet convention: dense peak = SMs x
datasheet tensor-core clock x FLOP per clock and SM. Sources: NVIDIA A100 whitepaper (108 SMs, 1.41 GHz, 312 TFLOPS),
NVIDIA H100 whitepaper, tables 2 and 3 (132 SMs at 1.83 GHz, 989 TFLOPS; 114 SMs at 1.62 GHz, 756 TFLOPS).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.records.sentinels import gemm_flops_per_s

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
