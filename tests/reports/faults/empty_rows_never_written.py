"""A row that sees no key has an lse of -inf, and an output that nobody wrote.

https://github.com/flashinfer-ai/flashinfer/pull/4975
"""

from attention import attention, keys_seen

CAUSES = (r"rows that see no key are not finite",)


def empty_rows_never_written(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    out[:, keys_seen(q, k, causal) == 0] = float("nan")
    return out, lse
