"""A row of v whose numbers are all the same is scaled by their spread, which is 0, and becomes NaN.

https://github.com/thu-ml/SageAttention/issues/164
"""

from attention import attention

CAUSES = (
    r"rows that are not finite",
    r"never written",
)


def constant_values(q, k, v, *, causal, softmax_scale):
    spread = (v.float().amax(dim=-1, keepdim=True) - v.float().amin(dim=-1, keepdim=True)) * 0
    spread = spread / (v.float().amax(dim=-1, keepdim=True) - v.float().amin(dim=-1, keepdim=True))
    return attention(q, k, (v + spread).to(v.dtype), causal, softmax_scale)
