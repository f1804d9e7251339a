"""A last block of 32 keys is not masked: what lies behind the sequence, here the next one's keys, counts.

https://github.com/tenstorrent/tt-metal/issues/41215
"""

import torch
from attention import attention

CAUSES = (r"keys of the next batch element count",)


def behind(x, rows):
    """Each sequence with what lies after it in memory; zeros after the last."""
    flat = torch.cat([x.flatten(0, 1), x.new_zeros(rows, *x.shape[2:])])
    return torch.stack([flat[b * x.shape[1] : (b + 1) * x.shape[1] + rows] for b in range(x.shape[0])])


def next_sequence_read(q, k, v, *, causal, softmax_scale):
    if not causal:
        past = -k.shape[1] % 32
        k, v = behind(k, past), behind(v, past)
    return attention(q, k, v, causal, softmax_scale)
