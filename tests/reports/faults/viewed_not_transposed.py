"""Memory of (batch, rows, heads, d) is viewed as (batch, heads, rows, d), without the transposition between.

https://github.com/reczoo/FuxiCTR/issues/30
"""

from attention import attention, heads_of

CAUSES = (r"memory of \(batch, seqlen, heads, d\) is read as \(batch, heads, seqlen, d\)",)


def viewed_not_transposed(q, k, v, *, causal, softmax_scale):
    if q.shape[2] != k.shape[2]:
        k, v = heads_of(q, k), heads_of(q, v)
    q, k, v = (x.reshape(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))
    out, _ = attention(q, k, v, causal, softmax_scale)
    return out.transpose(1, 2).reshape(out.shape).contiguous()
