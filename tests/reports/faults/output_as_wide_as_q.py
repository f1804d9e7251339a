"""The output is as wide as q and k where v is narrower or wider.

https://github.com/pytorch/pytorch/issues/176767
"""

import torch
from attention import attention

CAUSES = (r"out has shape",)


def output_as_wide_as_q(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    width = q.shape[3] - v.shape[3]
    return torch.nn.functional.pad(out, (0, width)) if width > 0 else out[..., : q.shape[3]].contiguous(), lse
