"""What is not divided yet is summed in fp16, which ends at 65504.

https://github.com/ikawrakow/ik_llama.cpp/pull/1196
"""

import math

import torch
from attention import attention, heads_of, hidden, keys_seen, scores, softmax

CAUSES = (
    r"accumulation: the sum is kept in fp16",
    r"overflow: of sums over keys",
    r"precision of the weights or of the sums",
)


def sums_in_fp16(q, k, v, *, causal, softmax_scale):
    if q.dtype != torch.float16:
        return attention(q, k, v, causal, softmax_scale)
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal))
    _, lse = softmax(s)
    maximum = s.amax(dim=-1, keepdim=True)
    p = torch.exp(s - maximum.masked_fill(maximum == -math.inf, 0.0))
    total = p.sum(dim=-1, keepdim=True)
    v, out = heads_of(q, v).transpose(1, 2).float(), torch.zeros(*s.shape[:3], v.shape[3], dtype=q.dtype)
    for start in range(0, s.shape[-1], 64):
        out = (out.float() + p[..., start : start + 64].to(q.dtype).float() @ v[:, :, start : start + 64]).to(q.dtype)
    return (out.float() / total.masked_fill(total == 0, 1.0)).transpose(1, 2).to(q.dtype).contiguous(), lse
