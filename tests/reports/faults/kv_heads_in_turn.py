"""Key/value heads are tiled over the query heads where they should be repeated.

https://github.com/ekzhang/jax-js/pull/180
"""

import torch
from attention import attention

CAUSES = (r"in turn, not in groups",)


def kv_heads_in_turn(q, k, v, *, causal, softmax_scale):
    taken = torch.arange(q.shape[2]) % k.shape[2]
    return attention(q, k[:, :, taken], v[:, :, taken], causal, softmax_scale)
