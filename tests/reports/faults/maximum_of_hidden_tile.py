"""A tile that is hidden altogether leaves a running maximum of 0, which scores below 0 never lower.

https://github.com/Dao-AILab/flash-attention/issues/2082
"""

import math

import torch
from attention import hidden, keys_seen, scores, values

CAUSES = (r"maximum starts at 0",)


def maximum_of_hidden_tile(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal))
    tile = torch.arange(q.shape[1]) // 128 * 128 + 127  # the last row of each tile of queries
    last = keys_seen(q, k, causal)[tile.clamp(max=q.shape[1] - 1)].clamp(min=1) - 1
    first = keys_seen(q, k, causal) <= last // 64 * 64  # the first tile of keys to be visited is hidden
    maximum = s.amax(dim=-1, keepdim=True)
    maximum = torch.where(first[:, None], maximum.clamp(min=0.0), maximum)
    p = torch.exp(s - maximum.masked_fill(maximum == -math.inf, 0.0))
    total = p.sum(dim=-1, keepdim=True)
    lse = (maximum + total.log()).squeeze(-1)
    return values(p / total.masked_fill(total == 0, 1.0), q, v), lse
