"""torch's fused CPU attention (FlashAttention-style tiling in C++), by its own operator: nothing else can run."""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case


class CpuFlash(Base):
    name = "cpu_flash"
    devices = ("cpu",)

    def unsupported(self, case: Case) -> str | None:
        if case.is_fp8:
            return f"torch's CPU flash attention takes no {case.dtype}"
        if case.causal and case.seqlen_q != case.seqlen_k:
            return "its causal mask is top-left aligned, which differs where seqlen_q != seqlen_k"
        if case.head_dim_v != case.head_dim:
            return "it takes one head_dim for q, k and v"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

        def call() -> Outputs:
            out, lse = operator(q, k, v, 0.0, case.causal, scale=case.scale)
            return Outputs(out.transpose(1, 2), lse)

        return call


BACKENDS = (CpuFlash(),)
