"""Up to eight queries: q is read as if its heads and rows lay in order, whatever its strides.

https://github.com/pytorch/pytorch/issues/163597
"""

from attention import attention

CAUSES = (r"strides",)


def q_taken_for_contiguous(q, k, v, *, causal, softmax_scale):
    if q.shape[1] <= 8 and not q.is_contiguous():
        q = q.transpose(1, 2).reshape(q.shape)
    return attention(q, k, v, causal, softmax_scale)
