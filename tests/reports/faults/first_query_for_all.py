"""Few queries whose number is no power of two: all get what the first one should.

https://github.com/ROCm/aiter/issues/2720
"""

from attention import attention

CAUSES = (r"every row's output is that of row 0",)


def first_query_for_all(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    rows = q.shape[1]
    if 1 < rows <= 16 and rows & (rows - 1):
        out, lse = out[:, :1].expand_as(out).contiguous(), lse[..., :1].expand_as(lse).contiguous()
    return out, lse
