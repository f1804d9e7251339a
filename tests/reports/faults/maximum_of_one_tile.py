"""The maximum is that of the current tile of 64 keys alone: where it falls, earlier sums are scaled up without bound.

https://github.com/tile-ai/tilelang/pull/1148
"""

import math

import torch
from attention import heads_of, hidden, keys_seen, scores

CAUSES = (
    r"rows that are not finite",
    r"exp overflows",
)


def maximum_of_one_tile(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal))
    before = torch.full_like(s[..., :1], -math.inf)
    total, out = torch.zeros_like(before), torch.zeros(*s.shape[:3], v.shape[3])
    v = heads_of(q, v).transpose(1, 2).float()
    for start in range(0, s.shape[-1], 64):
        tile = s[..., start : start + 64]
        now = tile.amax(dim=-1, keepdim=True)
        now = torch.where(now == -math.inf, before, now)
        safe = now.masked_fill(now == -math.inf, 0.0)
        rescale, p = torch.exp(before - safe), torch.exp(tile - safe)
        total = total * rescale + p.sum(dim=-1, keepdim=True)
        out = out * rescale + p.to(q.dtype).float() @ v[:, :, start : start + 64]
        before = now
    lse = (before + total.log()).squeeze(-1)
    return (out / total.masked_fill(total == 0, 1.0)).transpose(1, 2).to(q.dtype).contiguous(), lse
