"""Right attention in plain torch, in the steps that the faults beside it change. None of them is posed with this file
alone; it is what they would be without their fault.

q (batch, seqlen_q, heads, d), k and v (batch, seqlen_k, heads_kv, d): scores and softmax in fp32, P rounded to the
inputs' type, products summed in fp32, the output rounded once.
"""

import math

import torch


def heads_of(q, x):
    """k or v with a head for each query head."""
    return x.repeat_interleave(q.shape[2] // x.shape[2], dim=2)


def keys_seen(q, k, causal):
    """How many keys each row sees, (seqlen_q): aligned bottom right."""
    rows, keys = q.shape[1], k.shape[1]
    return (torch.arange(rows) + 1 + keys - rows).clamp(0, keys) if causal else torch.full((rows,), keys)


def scores(q, k, scale):
    """(batch, heads, seqlen_q, seqlen_k)"""
    return torch.einsum("bqhd,bkhd->bhqk", q.float(), heads_of(q, k).float()) * scale


def hidden(s, seen):
    """Scores with -inf where a row must not see a key; seen as `keys_seen`, or (heads, seqlen_q)."""
    return s.masked_fill(torch.arange(s.shape[-1]) >= seen[..., None], -math.inf)


def softmax(s):
    """Weights and lse; a row without keys has weights of 0."""
    lse = s.logsumexp(dim=-1)
    return torch.exp(s - lse.masked_fill(lse == -math.inf, 0.0)[..., None]), lse


def values(p, q, v):
    """P V in the layout of q."""
    return torch.einsum("bhqk,bkhd->bqhd", p.to(q.dtype).float(), heads_of(q, v).float()).to(q.dtype)


def attention(q, k, v, causal, scale, seen=None):
    p, lse = softmax(hidden(scores(q, k, scale), keys_seen(q, k, causal) if seen is None else seen))
    return values(p, q, v), lse


def longer(x, rows, value=0.0):
    """With so many more rows after each sequence."""
    return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, rows), value=value)


def never_written(x):
    return torch.full_like(x, float("nan"))
