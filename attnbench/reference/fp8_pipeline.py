"""The emulated 8-bit forward, whose error is the budget of 8-bit kernels: key tiles in order, a running maximum, P
times p_scale rounded to the inputs' dtype, the row's sum of unrounded P, and the accumulator that a kernel declares.

Tensor cores multiply what is stored; descales come afterwards, as FlashAttention-3 applies them (Shah et al. 2024,
arXiv 2407.08608, section 3.3). Where sums cut digits off this matters: a product of 448s has three digits more than
one of 1s, so that long sums of one sign lose several times as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attnbench.reference.fp8 import matmul_into, to_fp8
from attnbench.reference.quantize import dequantize, expand_descale

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.backend import Inputs
    from attnbench.case import Case
    from attnbench.reference.rows import Part

TILE_N = 128
# Scalings under which one number stands for a head's whole v, so that the output alone needs to be multiplied by it.
ONE_A_HEAD = ("none", "tensor", "head")


class Stored(NamedTuple):
    """What tensor cores are given, fp32 (batch, seqlen, heads, dim), and what 1 of it is worth, (batch, seqlen, heads,
    1); None: 1. Of a v with descales along its keys, the kernel is taken to multiply v before it sums."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_unit: Tensor | None = None
    k_unit: Tensor | None = None
    v_unit: Tensor | None = None


def stored_inputs(case: Case, inputs: Inputs) -> Stored:
    """The quantized tensors and their descales; of inputs that are not quantized, the tensors themselves."""
    held = inputs.quantized
    if held is None:
        return Stored(inputs.q.float(), inputs.k.float(), inputs.v.float())

    def units(stored: Tensor, descale: Tensor) -> Tensor:
        expanded = expand_descale(descale, stored.shape, case.scaling, case.block_size)
        return expanded.expand(*stored.shape[:3], 1)

    q_unit, k_unit = units(held.q, held.q_descale), units(held.k, held.k_descale)
    if case.scaling not in ONE_A_HEAD:
        return Stored(held.q.float(), held.k.float(), dequantize(held.v, held.v_descale, case), q_unit, k_unit)
    return Stored(held.q.float(), held.k.float(), held.v.float(), q_unit, k_unit, units(held.v, held.v_descale))


def forward(case: Case, part: Part, given: Stored, accumulator: str, round_p: bool = True) -> tuple[Tensor, Tensor]:
    """out (pairs, heads * rows, head_dim_v) and lse (pairs, heads * rows) of the part's rows, in fp32."""
    import torch

    queries = part.queries(given.q)
    maximum = queries.new_full((*queries.shape[:-1], 1), -torch.inf)
    total = queries.new_zeros((*queries.shape[:-1], 1))
    out = queries.new_zeros((*queries.shape[:-1], given.v.shape[-1]))
    for start in range(0, part.limit, TILE_N):
        stop = min(start + TILE_N, part.limit)
        scores = _scores(case, part, given, queries, slice(start, stop), accumulator)
        scores.masked_fill_(part.hidden(start, stop), -torch.inf)
        new_maximum = torch.maximum(maximum, scores.amax(dim=-1, keepdim=True))
        safe = new_maximum.masked_fill(new_maximum == -torch.inf, 0.0)
        rescale = torch.exp(maximum - safe)
        p = torch.exp(scores - safe)
        total = total * rescale + p.sum(dim=-1, keepdim=True)
        p = p * case.p_scale
        if round_p:
            p = to_fp8(p, case.dtype).float()
        out = matmul_into(out * rescale, p, part.keys(given.v)[:, start:stop], accumulator)
        maximum = new_maximum
    if given.v_unit is not None and part.limit:
        out = out * part.keys(given.v_unit)[:, :1]
    lse = (maximum + total.log()).squeeze(-1)
    return out / (total * case.p_scale).masked_fill(total == 0, 1.0), lse


def _scores(case: Case, part: Part, given: Stored, queries: Tensor, keys: slice, accumulator: str) -> Tensor:
    factors = part.keys(given.k)[:, keys].mT
    scores = matmul_into(queries.new_zeros((*queries.shape[:-1], factors.shape[-1])), queries, factors, accumulator)
    if given.q_unit is not None and given.k_unit is not None:
        scores.mul_(part.queries(given.q_unit)).mul_(part.keys(given.k_unit)[:, keys].mT)
    return scores.mul_(case.scale)
