"""Eager attention that materializes the scores: what one writes first, and what every fused kernel replaces.

Scores and softmax in fp32, P rounded to the input dtype, products accumulated in fp32, the output rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Naive(Base):
    name = "naive"

    def unsupported(self, case: Case) -> str | None:
        if case.is_fp8:
            return f"eager {case.dtype} attention is the backend fp8_emulated"
        return beyond(case, ("fp16", "bf16", "fp32"), takes=("mask_alignment", "kv_dtype"))

    def extra_bytes(self, case: Case) -> int:
        """fp32 scores and softmax, P in the input dtype and again in fp32 where the product has no fp32 output."""
        return case.batch * case.num_heads * case.seqlen_q * case.seqlen_k * 14

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        hidden = _hidden(case, inputs.q.device)
        scale, ratio = case.scale, case.num_heads // case.num_heads_kv
        grouped = (case.batch, case.num_heads, case.seqlen_q)

        def call() -> Outputs:
            # (batch, heads_kv, ratio * seqlen_q, dim): the query heads of a group share one matrix product.
            q = inputs.q.unflatten(2, (case.num_heads_kv, ratio)).permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)
            k = inputs.k.permute(0, 2, 3, 1).flatten(0, 1)
            v = inputs.v.permute(0, 2, 1, 3).flatten(0, 1)
            scores = _product(q, k).mul_(scale)
            if hidden is not None:
                scores.view(-1, ratio, *hidden.shape).masked_fill_(hidden, float("-inf"))
            lse = scores.logsumexp(dim=-1)
            p = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp_().to(v.dtype)
            out = _product(p, v).to(inputs.q.dtype).view(*grouped, -1)
            return Outputs(out.transpose(1, 2).contiguous(), lse.view(grouped))

        return call


def _hidden(case: Case, device: torch.device) -> Tensor | None:
    """(seqlen_q, seqlen_k), True where the causal mask hides a key."""
    import torch

    if not case.causal:
        return None
    rows = torch.arange(case.seqlen_q, device=device)[:, None] + case.diagonal
    return torch.arange(case.seqlen_k, device=device) > rows


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with fp32 accumulation and fp32 result."""
    import torch

    if a.is_cuda and a.dtype == b.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


BACKENDS = (Naive(),)
