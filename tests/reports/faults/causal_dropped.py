"""The causal mask is asked for and silently left out.

https://github.com/keras-team/keras/issues/23038
"""

from attention import attention

CAUSES = (r"there is none, every query sees every key",)


def causal_dropped(q, k, v, *, causal, softmax_scale):
    return attention(q, k, v, False, softmax_scale)
