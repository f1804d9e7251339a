"""With one query and a causal mask, eight positions past the last key take part.

https://github.com/vllm-project/vllm-xpu-kernels/pull/181
"""

from attention import attention, longer

CAUSES = (r"8 keys past the end count as zeros",)


def decode_reads_on(q, k, v, *, causal, softmax_scale):
    if causal and q.shape[1] == 1:
        k, v = longer(k, 8), longer(v, 8)
    return attention(q, k, v, causal, softmax_scale)
