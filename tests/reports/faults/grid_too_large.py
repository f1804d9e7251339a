"""The batch is a grid dimension that ends at 65535: beyond, nothing is launched and nobody is told.

https://github.com/flashinfer-ai/flashinfer/issues/3125
"""

from attention import attention, never_written

CAUSES = (r"never written",)


def grid_too_large(q, k, v, *, causal, softmax_scale):
    if q.shape[0] > 65535:
        return never_written(q[..., : v.shape[3]]).contiguous()
    return attention(q, k, v, causal, softmax_scale)[0]
