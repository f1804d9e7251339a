"""The product of q and k comes out in bf16, as its operands are.

https://github.com/ROCm/aiter/pull/705
"""

from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (
    r"scores (are|is) rounded to (bf16|16 bits)",
    r"scores rounded to 16 bits",
)


def scores_in_bf16(q, k, v, *, causal, softmax_scale):
    s = scores(q, k, 1.0).to(q.dtype).float() * softmax_scale
    p, lse = softmax(hidden(s, keys_seen(q, k, causal)))
    return values(p, q, v), lse
