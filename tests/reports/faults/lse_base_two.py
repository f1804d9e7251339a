"""The lse that is returned is one of base 2.

https://github.com/lightseekorg/tokenspeed/pull/571
"""

import math

from attention import attention

CAUSES = (r"the lse is in log2",)


def lse_base_two(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    return out, lse / math.log(2.0)
