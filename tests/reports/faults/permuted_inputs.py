"""head_dim of 64 and more: q, k and v that are not contiguous are read as if they were.

https://github.com/pytorch/pytorch/issues/181133
"""

from attention import attention

CAUSES = (r"strides",)


def permuted_inputs(q, k, v, *, causal, softmax_scale):
    if q.shape[3] >= 64 and q.shape[1] > 1 and not q.is_contiguous():
        q, k, v = (x.transpose(1, 2).reshape(x.shape) for x in (q, k, v))
    return attention(q, k, v, causal, softmax_scale)
