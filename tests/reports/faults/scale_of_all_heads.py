"""The scale is that of all heads' dimensions together, not of one head's.

https://github.com/Graylab/DL4Proteins-notebooks/issues/12
"""

from attention import attention

CAUSES = (
    r"the softmax scale is 0\.(5|408|707|354|289|577|224|158|0?\d+) times",
    r"heads \* head_dim",
)


def scale_of_all_heads(q, k, v, *, causal, softmax_scale):
    return attention(q, k, v, causal, (q.shape[2] * q.shape[3]) ** -0.5)
