"""Decoding walks keys in blocks of head_dim rows and values in blocks of head_dim_v: past the first they are out of
step.

https://github.com/ikawrakow/ik_llama.cpp/pull/2031
"""

import torch
from attention import attention

CAUSES = (
    r"values: .*out of step",
    r"blocks of head_dim",
)


def values_out_of_step(q, k, v, *, causal, softmax_scale):
    d, d_v = q.shape[3], v.shape[3]
    if q.shape[1] == 1 and d != d_v:
        key = torch.arange(k.shape[1])
        v = v[:, (key // d * d_v + key % d).clamp(max=k.shape[1] - 1)]
    return attention(q, k, v, causal, softmax_scale)
