"""The last tile of 64 values is loaded whole: its weights past the end are 0, but 0 times NaN is NaN.

https://github.com/Dao-AILab/flash-attention/issues/1745
"""

import torch
from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (r"past the end of (a|each) sequence",)


def tile_reads_padding(q, k, v, *, causal, softmax_scale):
    p, lse = softmax(hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal)))
    past = -k.shape[1] % 64
    if past and v.stride(0) >= (k.shape[1] + past) * v.stride(1):
        v = v.as_strided((v.shape[0], k.shape[1] + past, *v.shape[2:]), v.stride())
        p = torch.nn.functional.pad(p, (0, past))
    return values(p, q, v), lse
