"""Threads cover 32 columns of the output; the others keep the zeros they began with.

https://github.com/mni-ml/framework/pull/38
"""

from attention import attention

CAUSES = (r"columns 32 to \d+ .*are 0 in every row",)


def threads_end_at_32(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    out[..., 32:] = 0.0
    return out, lse
