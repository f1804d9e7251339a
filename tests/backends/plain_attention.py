"""fp64 attention in the obvious way, for fakes that must compute something and for tests without the judge."""

from __future__ import annotations

import torch


def attention(q, k, v, scale, causal, bottom_right=True):
    """(out, lse) in fp64 for (batch, seqlen, heads, dim) tensors; rows that see no key get 0 and -inf."""
    ratio = q.shape[2] // k.shape[2]
    k, v = (tensor.repeat_interleave(ratio, dim=2) for tensor in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * scale
    if causal:
        offset = k.shape[1] - q.shape[1] if bottom_right else 0
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + offset)
        scores = scores.masked_fill(hidden, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None])
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.double()), lse


def relative_rmse(out, exact):
    return float((out.double() - exact).norm() / exact.norm())
