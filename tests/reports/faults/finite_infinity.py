"""The running maximum of unscaled scores starts at -50000: a row whose scores are all below it comes out as 0.

https://github.com/flashinfer-ai/flashinfer/issues/4267
"""

import torch
from attention import hidden, keys_seen, scores, values

CAUSES = (r"maximum starts at 0 or at another number above them",)


def finite_infinity(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, 1.0), keys_seen(q, k, causal))
    maximum = s.amax(dim=-1, keepdim=True).clamp(min=-5e4)
    p = torch.exp((s - maximum) * softmax_scale)
    total = p.sum(dim=-1, keepdim=True)
    lse = (maximum * softmax_scale + total.log()).squeeze(-1)
    return values(p / total.masked_fill(total == 0, 1.0), q, v), lse
