"""Offsets are of 32 bits: rows of k that begin 2^31 elements on are read from the tensor's beginning.

https://github.com/fla-org/flash-linear-attention/issues/1080
"""

import torch
from attention import attention

CAUSES = (
    r"2\^31",
    r"32-bit",
)


def offsets_of_32_bits(q, k, v, *, causal, softmax_scale):
    rows = torch.arange(k.shape[0])[:, None] * k.stride(0) + torch.arange(k.shape[1]) * k.stride(1)
    first = k[0, 0].clone()
    k = torch.empty(k.shape, dtype=k.dtype).copy_(k)
    k[rows >= 2**31 - 2**20] = first
    return attention(q, k, v, causal, softmax_scale)
