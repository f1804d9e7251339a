"""Our own Triton forward (`attnbench.backends.triton.forward`), its tile chosen by Triton's autotuner in a first call.

Operands are read through TMA descriptors on Hopper and later where their strides allow it, through pointers elsewhere;
`kernel_facts` says which. For e4m3 through TMA, `prepare` also stores V transposed (untimed).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.backends.triton.launch import (
    COMPILER_OPTIONS,
    TILES,
    allocate,
    arguments,
    grid,
    runnable_tiles,
    set_block_shapes,
    strides,
    tile_arguments,
    tma_takes,
)
from attnbench.case import FP8_DTYPES, Case

# The two versions that the kernel is written for, 3.6 and 3.7: their `tl` names and host-side TMA descriptors.
OLDEST_TRITON = (3, 6)
# Tensor cores take e4m3 from Ada on, and the TMA is there from Hopper on.
OLDEST_FP8_CAPABILITY = (8, 9)
OLDEST_TMA_CAPABILITY = (9, 0)
OLDEST_CAPABILITY = (8, 0)
LARGEST_HEAD_DIM = 256


@dataclass(frozen=True)
class Triton(Base):
    name: str = "triton"
    deterministic: bool = True
    devices: tuple[str, ...] = ("cuda",)
    accumulator: str = "two_level"
    language: str | None = "triton"
    copies_inputs: bool | frozenset[str] = frozenset(FP8_DTYPES)  # V, transposed, where TMA loads it
    # Case key -> what the compiled kernel of that case's last call is; filled by the first call.
    _compiled: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        return f"triton {package_version('triton')}, own kernel"

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import lacks_cuda_torch, lacks_gpu, module_installed, package_version

        reason = lacks_gpu(OLDEST_CAPABILITY) or lacks_cuda_torch()
        if reason:
            return reason
        if not module_installed("triton"):
            return 'Triton is not installed; get it with: pip install "triton>=3.6"'
        installed = package_version("triton")
        if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TRITON:
            return f'it needs Triton 3.6 or later, not {installed}; get it with: pip install "triton>=3.6"'
        return None

    def unsupported(self, case: Case) -> str | None:
        from attnbench.machine.facts import compute_capabilities

        if case.head_dim > LARGEST_HEAD_DIM or case.head_dim_v > LARGEST_HEAD_DIM:
            return f"it takes head dims up to {LARGEST_HEAD_DIM}, not {max(case.head_dim, case.head_dim_v)}"
        if reason := beyond(case, ("fp16", "bf16", *FP8_DTYPES)):
            return reason
        if case.dtype == "e5m2":
            return "its 8-bit code is compiled and tested for e4m3 only, not for e5m2"
        if case.is_fp8 and any(capability < OLDEST_FP8_CAPABILITY for capability in compute_capabilities()):
            return "e4m3 needs tensor cores of compute capability 8.9 or later"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        device = torch.cuda.get_device_properties(inputs.q.device)
        tma = (device.major, device.minor) >= OLDEST_TMA_CAPABILITY and tma_takes(case)
        fixed = arguments(case, inputs, tma, l2_bytes=device.L2_cache_size)
        out_like = inputs.q
        kernel, compiled = _tuned_kernel(), self._compiled

        def call() -> Outputs:
            out, lse = allocate(case, out_like)
            binary = kernel[grid(case)](**fixed, out=out, lse=lse, **strides("o", out), **COMPILER_OPTIONS)
            if case.key not in compiled:
                compiled[case.key] = _describe(kernel.best_config, binary)
            return Outputs(out, lse)

        return call

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        """How operands are read, and after the first call which tile autotuning chose and what it compiled to."""
        from attnbench.machine.facts import compute_capabilities

        tma = min(compute_capabilities(), default=(0, 0)) >= OLDEST_TMA_CAPABILITY and tma_takes(case)
        facts = {"name": "attention_forward", "operands": "tma" if tma else "pointers"}
        return {**facts, **self._compiled.get(case.key, {})}


@functools.cache
def _tuned_kernel() -> Any:
    """The kernel behind Triton's autotuner: one choice of tile per problem, made in the first call."""
    import triton

    from attnbench.backends.triton.forward import attention_forward

    configs = [
        triton.Config(tile_arguments(tile), num_warps=tile.warps, num_stages=tile.stages, pre_hook=set_block_shapes)
        for tile in TILES
    ]
    key = ["batch_heads", "heads_kv", "seqlen_q", "seqlen_k", "CAUSAL", "FP8", "ROW_SCALED", "GROUP", "TMA"]
    key += ["HEAD_DIM", "HEAD_DIM_V"]
    return triton.autotune(configs, key=key, prune_configs_by={"early_config_prune": _prune})(attention_forward)


def _prune(configs: list[Any], named: Mapping[str, Any], **keywords: Any) -> list[Any]:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    shared_bytes: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # torch's stub lacks it
    kept = runnable_tiles({**named, **keywords}, shared_bytes)
    return [config for config, tile in zip(configs, TILES, strict=True) if tile in kept]


def _describe(config: Any, binary: Any) -> dict[str, Any]:
    facts = {"block_m": config.kwargs["BLOCK_M"], "block_n": config.kwargs["BLOCK_N"]}
    facts |= {"warps": config.num_warps, "stages": config.num_stages}
    return {**facts, "registers": binary.n_regs, "spills": binary.n_spills, "shared_bytes": binary.metadata.shared}


BACKENDS = (Triton(),)
