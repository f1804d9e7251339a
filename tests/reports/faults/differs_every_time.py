"""A tile of weights is used before it is complete, now and then: the output differs from call to call.

https://github.com/ggml-org/llama.cpp/issues/26759
"""

import torch
from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (r"another output each time|differ bitwise|not repeat",)


def differs_every_time(q, k, v, *, causal, softmax_scale):
    p, lse = softmax(hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal)))
    p = p * (1 + 1e-2 * (torch.rand(p.shape[-1]) < 0.2))
    return values(p, q, v), lse
