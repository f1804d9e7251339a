"""Sentinels, the fixed work that shows whether a machine drifts: a GEMM and a copy, timed as every other number is.

On a GPU a bf16 GEMM through cuBLAS, whose rate is the ceiling that results are shown against; on a CPU a small fp32
one, since few CPUs have a bf16 one, which serves for drift alone. Inputs are random normal: zeros would run faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attnbench.backend import Outputs
from attnbench.records.measurement import known_facts
from attnbench.settings import Timing
from attnbench.timing.measure import Turns, measure
from attnbench.timing.sampling import Watch
from attnbench.timing.timers import make_timer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Work:
    """gemm_size: rows and columns of the square matrices; copy_bytes: read and written once each; timing of either."""

    gemm_dtype: str
    gemm_size: int
    copy_bytes: int
    gemm_timing: Timing
    copy_timing: Timing


# On a GPU the GEMM runs long enough for clocks to settle under its load; both outgrow an L2 of 50 MB five times.
_GPU_TIMING = Timing(cache="warm", min_samples=20, min_time_s=0.3, max_time_s=1.5, warmup_s=0.1)
GPU = Work("bf16", 8192, 2**29, _GPU_TIMING, _GPU_TIMING.model_copy(update={"settle_s": 0.0}))
# On a CPU together well under a second; the copy outgrows most caches.
_CPU_TIMING = Timing(cache="warm", min_samples=10, min_time_s=0.05, max_time_s=0.2, warmup_s=0.01)
CPU = Work("fp32", 512, 2**26, _CPU_TIMING, _CPU_TIMING)


def take_sentinel(device: str, watch: Watch, work: Work | None = None) -> dict[str, Any]:
    """One sentinel's figures, as plain data. Never raises for what the machine does: then `error` says what."""
    work = work or (CPU if device == "cpu" else GPU)
    facts: dict[str, Any] = {"at_s": round(watch.clock.now(), 3), "gemm_dtype": work.gemm_dtype,
                             "gemm_size": work.gemm_size, "copy_bytes": work.copy_bytes}  # fmt: skip
    try:
        gemm_s, facts["gemm"] = _timed(_gemm(device, work), device, work.gemm_timing, watch)
        copy_s, facts["copy"] = _timed(_copy(device, work), device, work.copy_timing, watch)
    except Exception as error:  # out of memory, a throttled card: a machine that cannot do it is a fact too
        lines = str(error).splitlines() or [""]
        return {**facts, "error": f"{type(error).__name__}: {lines[0]}"}
    finally:
        _give_back(device)
    facts["gemm_flops_per_s"] = 2 * work.gemm_size**3 / gemm_s
    facts["copy_bytes_per_s"] = 2 * work.copy_bytes / copy_s
    return facts


def _timed(call: Callable[[], Outputs], device: str, timing: Timing, watch: Watch) -> tuple[float, Mapping[str, Any]]:
    """Median seconds, and under what it was measured."""
    found = measure(Turns([call]), timing, make_timer("auto", device, 1), watch=watch)
    seen = found.blocks[-1].conditions
    return statistics.median(found.samples_s), {
        "samples": sum(block.sample_count for block in found.blocks),
        "flags": list(found.flags),
        "discarded": dict(found.discarded),
        "conditions": seen and known_facts(asdict(seen)),
    }


def _gemm(device: str, work: Work) -> Callable[[], Outputs]:
    import torch

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[work.gemm_dtype]
    a, b = (_normal(work.gemm_size, dtype, device, seed) for seed in (1, 2))
    out = torch.empty_like(a)
    return lambda: Outputs(torch.mm(a, b, out=out))


def _copy(device: str, work: Work) -> Callable[[], Outputs]:
    import torch

    source = torch.ones(work.copy_bytes // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    return lambda: Outputs(target.copy_(source))


def _give_back(device: str) -> None:
    """Leaves the device's memory to the cases."""
    import torch

    if device != "cpu":
        torch.cuda.empty_cache()


def _normal(size: int, dtype: torch.dtype, device: str, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(size, size, generator=generator, device=device).to(dtype)
