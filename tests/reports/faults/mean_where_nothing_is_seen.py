"""A row that sees no key is masked by a large finite number, and gets the mean of all values.

https://github.com/ml-explore/mlx/issues/2395
"""

import math

import torch
from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (r"rows that see no key are not 0: they hold the mean of v",)


def mean_where_nothing_is_seen(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal)).clamp(min=-1e30)
    s = torch.where(keys_seen(q, k, causal)[:, None] == 0, s * 0, s)
    p, lse = softmax(s)
    return values(p, q, v), lse.masked_fill(keys_seen(q, k, causal) == 0, -math.inf)
