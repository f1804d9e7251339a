"""The lse lies in memory as (batch, rows, heads) and is handed out as (batch, heads, rows).

https://github.com/vllm-project/vllm-xpu-kernels/pull/479
"""

from attention import attention

CAUSES = (r"the lse lies as \(batch, seqlen, heads\)",)


def lse_rows_first(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    return out, lse.transpose(1, 2).reshape(lse.shape).contiguous()
