"""The key/value head is the query head divided by the number of key/value heads, not by the group's size.

https://github.com/PSAL-POSTECH/ONNXim/issues/33
"""

import torch
from attention import attention

CAUSES = (
    r"takes key/value head h // \d+",
    r"every head takes key/value head 0",
)


def kv_heads_collapse(q, k, v, *, causal, softmax_scale):
    taken = (torch.arange(q.shape[2]) // k.shape[2]).clamp(max=k.shape[2] - 1)
    return attention(q, k[:, :, taken], v[:, :, taken], causal, softmax_scale)
