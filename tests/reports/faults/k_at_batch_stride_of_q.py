"""A batch element's keys and values are read at the offset of its queries, which differs where the lengths do.

https://github.com/thu-ml/SageAttention/issues/26
"""

import torch
from attention import attention

CAUSES = (r"keys and values of batch element b are read from row b \* seqlen_q on",)


def shifted(x, start, rows):
    """Rows of all batch elements together from `start` on; zeros past the last."""
    return torch.nn.functional.pad(x.flatten(0, 1)[start : start + rows], (0, 0, 0, 0, 0, rows))[:rows]


def k_at_batch_stride_of_q(q, k, v, *, causal, softmax_scale):
    rows, keys = q.shape[1], k.shape[1]
    k, v = (torch.stack([shifted(x, b * rows, keys) for b in range(x.shape[0])]) for x in (k, v))
    return attention(q, k, v, causal, softmax_scale)
