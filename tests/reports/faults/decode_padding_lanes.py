"""Decoding without a mask: lanes past the last key of a tile of 256 enter the row sum.

https://github.com/flashinfer-ai/flashinfer/issues/3716
"""

from attention import attention, longer

CAUSES = (r"last tile of .*256 keys is not masked",)


def decode_padding_lanes(q, k, v, *, causal, softmax_scale):
    if not causal and q.shape[1] == 1:
        k, v = longer(k, -k.shape[1] % 256), longer(v, -v.shape[1] % 256)
    return attention(q, k, v, causal, softmax_scale)
