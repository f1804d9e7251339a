"""A forward that keeps its output's sums in the inputs' type from one tile of keys to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.reference.rows import Attention, Part, Rows, empty_attention, parts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def narrow_sums(case: Case, inputs: Inputs, rows: Rows, tile: int, normalized: bool) -> Attention:
    """16-bit cases: online softmax in fp32, in tiles of so many keys; normalized: what is kept is the mean of v so far,
    as where the output's own memory holds it, else the sum. The output (batch, num_heads, rows, head_dim_v), fp64."""
    import torch

    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        part.store(result, *_swept(case, part, inputs, tile, normalized))
    return result


def _swept(case: Case, part: Part, inputs: Inputs, tile: int, normalized: bool) -> tuple[Tensor, Tensor]:
    import torch

    dtype = inputs.v.dtype
    queries, keys, v = part.queries(inputs.q).float(), part.keys(inputs.k).float(), part.keys(inputs.v).float()
    maximum = queries.new_full((*queries.shape[:-1], 1), -torch.inf)
    total, out = torch.zeros_like(maximum), queries.new_zeros((*queries.shape[:-1], v.shape[-1]))
    for start in range(0, part.limit, tile):
        stop = min(start + tile, part.limit)
        scores = (queries @ keys[:, start:stop].mT).mul_(case.scale).masked_fill_(part.hidden(start, stop), -torch.inf)
        larger = torch.maximum(maximum, scores.amax(dim=-1, keepdim=True))
        safe = larger.masked_fill(larger == -torch.inf, 0.0)
        kept, p = total * torch.exp(maximum - safe), torch.exp(scores - safe)
        total = kept + p.sum(dim=-1, keepdim=True)
        divisor = total.masked_fill(total == 0, 1.0) if normalized else torch.ones_like(total)
        before = out * (kept if normalized else torch.exp(maximum - safe))
        out = _rounded((before + _rounded(p, dtype) @ v[:, start:stop]) / divisor, dtype)
        maximum = larger
    if not normalized:
        out = _rounded(out / total.masked_fill(total == 0, 1.0), dtype)
    return out, (maximum + total.log()).squeeze(-1)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).float()
