"""The number of query tiles of 64 is rounded down: the last, partial one is never computed.

https://github.com/OpenNLPLab/lightning-attention/pull/28
"""

from attention import attention

CAUSES = (
    r"rows that are not finite.*never written",
    r"never written: .*rows",
)


def last_rows_never_written(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    whole = q.shape[1] // 64 * 64
    out[:, whole:], lse[:, :, whole:] = float("nan"), float("nan")
    return out, lse
