"""torch's FlexAttention, always compiled: its eager form materializes the scores and is never used.

On CUDA it is a Triton kernel that inductor writes. The first call of a new shape compiles. On the CPU inductor writes
C++ instead, without LSE. A shape takes 10 seconds to two minutes to compile there, which would swallow a default run,
so that it runs on the CPU by name only.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor

# torch/nn/attention/flex_attention.py refuses smaller ones for the compiled kernel.
SMALLEST_HEAD_DIM = 16
# FlexAttention's default: a mask is described in blocks of 128 queries by 128 keys.
MASK_BLOCK = 128
# One compiled entry a shape; torch's default of 8 would refuse the ninth case of a run.
COMPILED_SHAPES = 4096


class FlexAttention(Base):
    name = "flex"
    by_name_only = ("cpu",)

    def version(self) -> str:
        from importlib.metadata import version

        return f"torch {version('torch')}, compiled FlexAttention"

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import lacks_cuda_torch, lacks_gpu, lacks_torch, module_installed

        if lacks_gpu() or lacks_cuda_torch():
            return lacks_torch() or _lacks_compiler()
        return None if module_installed("triton") else "torch compiles it with Triton: pip install triton"

    def unsupported(self, case: Case) -> str | None:
        if case.is_fp8:
            return f"FlexAttention takes no descales, so an {case.dtype} case has no meaning for it"
        if reason := beyond(case, ("fp16", "bf16"), takes=("mask_alignment",)):
            return reason
        smallest = min(case.head_dim, case.head_dim_v)
        if smallest < SMALLEST_HEAD_DIM:
            return f"the compiled kernel takes head dims from {SMALLEST_HEAD_DIM}, not {smallest}"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        on_cuda = inputs.q.is_cuda
        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        corners = (case.seqlen_q, case.seqlen_k, case.diagonal)
        mask = causal_block_mask(*corners, str(inputs.q.device)) if case.causal else None
        flex = _compiled()
        options: dict[str, Any] = {"block_mask": mask, "scale": case.scale}
        options["enable_gqa"] = case.num_heads != case.num_heads_kv
        if on_cuda:
            from torch.nn.attention.flex_attention import AuxRequest

            options["return_aux"] = AuxRequest(lse=True)

        def call() -> Outputs:
            with torch.no_grad():
                result = flex(q, k, v, **options)
            if not on_cuda:
                return Outputs(result.transpose(1, 2))
            out, aux = result
            return Outputs(out.transpose(1, 2), aux.lse)

        return call


def causal_block_mask(seqlen_q: int, seqlen_k: int, diagonal: int, device: str) -> Any:
    """BlockMask of the causal mask, written down block by block.

    `create_block_mask` gives the same but evaluates all seqlen_q x seqlen_k positions on the way.
    """
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    first_row = torch.arange(0, seqlen_q, MASK_BLOCK, device=device)
    last_row = (first_row + MASK_BLOCK).clamp(max=seqlen_q) - 1
    key_blocks = -(-seqlen_k // MASK_BLOCK)
    # Whole blocks end at or before the first row's last key. Like torch, call none whole that is short either way.
    whole = ((first_row + 1 + diagonal).clamp(0, seqlen_k) // MASK_BLOCK).int()
    whole[first_row + MASK_BLOCK > seqlen_q] = 0
    seen = (-(-(last_row + 1 + diagonal).clamp(0, seqlen_k) // MASK_BLOCK)).int()
    column = torch.arange(key_blocks, device=device, dtype=torch.int32)
    partial_index = (column + whole[:, None]).clamp(max=key_blocks - 1)
    whole_index = column.expand(len(first_row), key_blocks).contiguous()

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.int()[None, None].contiguous()

    return BlockMask.from_kv_blocks(
        shaped(seen - whole), shaped(partial_index), shaped(whole), shaped(whole_index),
        BLOCK_SIZE=MASK_BLOCK, mask_mod=_up_to_diagonal(diagonal), seq_lengths=(seqlen_q, seqlen_k),
    )  # fmt: skip


def _lacks_compiler() -> str | None:
    """Of C++: inductor takes what CXX names, else g++ (torch/_inductor/config.py, cpp.cxx)."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return None
    return f"on the CPU torch compiles it with {compiler}, which is not here: install g++, or name a compiler in CXX"


@functools.cache
def _up_to_diagonal(diagonal: int) -> Callable[..., Tensor]:
    """One function a diagonal: torch compiles again for every new one."""

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return column <= row + diagonal

    return sees


@functools.cache
def _compiled() -> Callable[..., Any]:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = COMPILED_SHAPES
    # fullgraph: an error instead of falling back to the eager form.
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


BACKENDS = (FlexAttention(),)
