"""Decoding takes 16 query heads at a time, all with the key/value head of the first, though a group of more ends amid
them.

https://github.com/FlashML-org/FreeToken/pull/177
"""

import torch
from attention import attention

CAUSES = (r"tiles of 16 .*query heads take the key/value head of their first",)


def head_tile_spans_groups(q, k, v, *, causal, softmax_scale):
    group = q.shape[2] // k.shape[2]
    if q.shape[1] == 1 and group > 16:
        taken = torch.arange(q.shape[2]) // 16 * 16 // group
        k, v = k[:, :, taken], v[:, :, taken]
    return attention(q, k, v, causal, softmax_scale)
