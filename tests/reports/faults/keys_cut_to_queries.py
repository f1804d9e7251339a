"""Keys and values are cut to as many as there are queries.

https://github.com/alibaba/MNN/pull/4898
"""

from attention import attention

CAUSES = (r"number is taken from q",)


def keys_cut_to_queries(q, k, v, *, causal, softmax_scale):
    k, v = k[:, : q.shape[1]], v[:, : q.shape[1]]
    return attention(q, k, v, causal, softmax_scale)
