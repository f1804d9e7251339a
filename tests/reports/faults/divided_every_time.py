"""The sum over keys is divided by the row sum so far after every tile of 64 keys, not once at the end.

https://github.com/1bit-MONSTER/1bit-MONSTER/pull/495
"""

import math

import torch
from attention import heads_of, hidden, keys_seen, scores, softmax

CAUSES = (r"divided by the row sum after every tile of .*64 keys",)


def divided_every_time(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal))
    _, lse = softmax(s)
    v, before = heads_of(q, v).transpose(1, 2).float(), torch.full_like(s[..., :1], -math.inf)
    out, total = torch.zeros(*s.shape[:3], v.shape[3]), torch.zeros_like(before)
    for start in range(0, s.shape[-1], 64):
        tile = s[..., start : start + 64]
        now = torch.maximum(before, tile.amax(dim=-1, keepdim=True))
        safe = now.masked_fill(now == -math.inf, 0.0)
        rescale, p = torch.exp(before - safe), torch.exp(tile - safe)
        total = total * rescale + p.sum(dim=-1, keepdim=True)
        out = out * rescale + p.to(q.dtype).float() @ v[:, :, start : start + 64]
        out, before = out / total.masked_fill(total == 0, 1.0), now
    return out.transpose(1, 2).to(q.dtype).contiguous(), lse
