"""Keys are padded to a multiple of 256 with zeros that no mask hides.

https://github.com/leejet/stable-diffusion.cpp/pull/736
"""

from attention import attention, longer

CAUSES = (r"last tile of .*256 keys is not masked",)


def padding_unmasked(q, k, v, *, causal, softmax_scale):
    if not causal:
        k, v = longer(k, -k.shape[1] % 256), longer(v, -v.shape[1] % 256)
    return attention(q, k, v, causal, softmax_scale)
