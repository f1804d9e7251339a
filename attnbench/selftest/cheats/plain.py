"""Attention by its definition, which every cheat does where it does the work, and which is honest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float) -> Tensor:
    """(batch, seqlen_q, num_heads, head_dim_v) in q's dtype; causal: aligned at the bottom right."""
    import torch

    ratio = q.shape[2] // k.shape[2]
    queries, keys, values = (x.float().transpose(1, 2) for x in (q, k, v))
    keys, values = (x.repeat_interleave(ratio, dim=1) for x in (keys, values))
    scores = queries @ keys.mT * softmax_scale
    if causal:
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1 + scores.shape[3] - scores.shape[2])
        scores = scores.masked_fill(hidden, -math.inf)
    return (scores.softmax(dim=-1).nan_to_num() @ values).transpose(1, 2).to(q.dtype).contiguous()


def honest(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, softmax_scale: float) -> Tensor:
    """What a call costs where nothing is left out."""
    return attention(q, k, v, causal, softmax_scale)
