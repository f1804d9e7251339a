"""Two halves of the keys are merged by their lse: where a row sees none of either, -inf minus -inf is NaN.

https://github.com/vllm-project/vllm/pull/39148
"""

import torch
from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (r"rows that see no key are not finite",)


def empty_parts_merged(q, k, v, *, causal, softmax_scale):
    s = hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal))
    half = max(1, s.shape[-1] // 2)
    parts = [softmax(s[..., :half]), softmax(s[..., half:])]
    lses = torch.stack([lse for _, lse in parts])
    share = torch.exp(lses - lses.amax(dim=0))
    share = share / share.sum(dim=0)
    p = torch.cat([p * part[..., None] for (p, _), part in zip(parts, share)], dim=-1)
    return values(p, q, v), lses.logsumexp(dim=0)
