"""The head dimension is walked in steps of 32: what is left of 72 or 80 does not count in the scores.

https://github.com/mlc-ai/mlc-llm/pull/1889
"""

from attention import attention

CAUSES = (r"only the first 64 of (72|80) dimensions",)


def head_dim_rounded_down(q, k, v, *, causal, softmax_scale):
    whole = max(32, q.shape[3] // 32 * 32)
    out, lse = attention(q[..., :whole], k[..., :whole], v, causal, softmax_scale)
    return out, lse
