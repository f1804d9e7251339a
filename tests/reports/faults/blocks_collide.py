"""Blocks find their head by the group's size alone: right where there are as many groups, else some heads are computed
twice and others never.

https://github.com/HazyResearch/HipKittens/pull/22
"""

import torch
from attention import attention

CAUSES = (r"heads? .*never written",)


def blocks_collide(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    group, blocks = q.shape[2] // k.shape[2], torch.arange(q.shape[2])
    done = (blocks % group * group + blocks // group).clamp(max=q.shape[2] - 1)
    left = [head for head in range(q.shape[2]) if head not in done]
    out[:, :, left], lse[:, left] = float("nan"), float("nan")
    return out, lse
