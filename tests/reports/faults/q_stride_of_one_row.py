"""A batch element's queries are read one row after the last one's, not seqlen_q rows.

https://github.com/flashinfer-ai/flashinfer/issues/3800
"""

import torch
from attention import attention

CAUSES = (r"queries of batch element b are read from row b on",)


def q_stride_of_one_row(q, k, v, *, causal, softmax_scale):
    flat = q.flatten(0, 1)
    q = torch.stack([flat[b : b + q.shape[1]] for b in range(q.shape[0])])
    return attention(q, k, v, causal, softmax_scale)
