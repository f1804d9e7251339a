"""Decoding in groups: the lse of (heads, batch) is handed out as (batch, heads).

https://github.com/vllm-project/flash-attention/pull/87
"""

from attention import attention

CAUSES = (r"the lse lies as \(heads, batch",)


def lse_heads_first(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    if q.shape[1] == 1 and q.shape[2] > k.shape[2]:
        lse = lse.transpose(0, 1).reshape(lse.shape).contiguous()
    return out, lse
