"""Outputs of (batch, heads) are taken for (heads, batch) when heads are put side by side.

https://github.com/gazelle93/Transformer-Various-Positional-Encoding/issues/1
"""

from attention import attention

CAUSES = (r"batch elements and heads are taken for each other",)


def heads_for_batch(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    batch, rows, heads, dim = out.shape
    out = out.transpose(1, 2).reshape(heads, batch, rows, dim)
    return out.permute(1, 2, 0, 3).contiguous(), lse
