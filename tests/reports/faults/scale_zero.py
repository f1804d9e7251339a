"""A scale of 0, which stands for the default, is multiplied in: all keys weigh alike.

https://github.com/SKaiNET-developers/SKaiNET/pull/880
"""

from attention import attention

CAUSES = (r"the softmax scale is 0",)


def scale_zero(q, k, v, *, causal, softmax_scale):
    return attention(q, k, v, causal, 0.0)
