"""torch's fused CPU attention (FlashAttention-style tiling in C++), by its own operator: nothing else can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


class CpuFlash(Base):
    name = "cpu_flash"
    devices = ("cpu",)

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, ("fp16", "bf16", "fp32"), takes=("mask_alignment",)):
            return reason
        if case.head_dim_v != case.head_dim:
            return "it takes one head_dim for q, k and v"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        mask = _mask(case, inputs)
        causal = case.causal and mask is None and case.diagonal < case.seqlen_k - 1
        # NOTE: of a row that sees no key torch's lse is 0, not -inf (ATen/native/cpu/FlashAttentionKernel.cpp);
        # correcting it would take another pass, so such cases return none.
        blind_rows = case.causal and case.diagonal < 0

        def call() -> Outputs:
            out, lse = operator(q, k, v, 0.0, causal, attn_mask=mask, scale=case.scale)
            return Outputs(out.transpose(1, 2), None if blind_rows else lse)

        return call


def _mask(case: Case, inputs: Inputs) -> Tensor | None:
    """(seqlen_q, seqlen_k), 0 and -inf, where the causal mask does not begin at the top left, as the operator's own
    does; None where nothing is masked, or its own is right."""
    import torch

    if not case.causal or case.diagonal == 0 or case.diagonal >= case.seqlen_k - 1:
        return None
    shape = (case.seqlen_q, case.seqlen_k)
    return torch.full(shape, -torch.inf, dtype=inputs.q.dtype).triu(case.diagonal + 1)


BACKENDS = (CpuFlash(),)
