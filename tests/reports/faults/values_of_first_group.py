"""Keys from head_dim on count in the row sum, and their values are never added.

https://github.com/timtoole02/Camelid/pull/714
"""

from attention import hidden, keys_seen, scores, softmax, values

CAUSES = (r"values of keys from \d+ on are left out",)


def values_of_first_group(q, k, v, *, causal, softmax_scale):
    p, lse = softmax(hidden(scores(q, k, softmax_scale), keys_seen(q, k, causal)))
    p[..., q.shape[3] :] = 0.0
    return values(p, q, v), lse
