"""What a loop writes into its kernel file, step by step."""

HEAD = """
import time

import torch


def attend(q, k, v, causal, scale, diagonal):
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(diagonal)
        scores = scores.masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).contiguous().to(dtype)


def mine(q, k, v, *, causal, softmax_scale):
"""
WRONG_MASK = HEAD + "    return attend(q, k, v, causal, softmax_scale, 0)\n"
WRONG_SCALE = HEAD + "    return attend(q, k, v, causal, 1.0, k.shape[1] - q.shape[1])\n"
SLOW = HEAD + ("    time.sleep(0.03)\n    return attend(q, k, v, causal, softmax_scale, k.shape[1] - q.shape[1])\n")
FAST = """
import torch


def mine(q, k, v, *, causal, softmax_scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None
    if causal and q.shape[2] != k.shape[2]:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    attention = torch.nn.functional.scaled_dot_product_attention
    is_causal = causal and mask is None
    out = attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2)
"""
RAISES = "def mine(q, k, v, *, causal, softmax_scale):\n    raise RuntimeError('no tile for this head_dim')\n"
NO_IMPORT = "import a_module_that_is_not_there\n"
# Cheap to judge; at the timed length eager attention takes four times as long as a fused one.
SUITE = """
name: loop
groups:
  - name: shapes
    time: false
    axes:
      dtype: fp32
      "causal, batch, num_heads, num_heads_kv, seqlen_q, seqlen_k, head_dim":
        [[true, 1, 2, 2, 33, 65, 32], [false, 2, 2, 1, 65, 64, 32]]
  - name: timed
    axes: {dtype: bf16, causal: true, batch: 1, num_heads: 4, head_dim: 32, seqlen: 256}
checks: {repeats: 1}
timing: {min_samples: 10, min_time_s: 0.03, max_time_s: 3, warmup_s: 0.005, cache: warm}
"""
# An answer kept by where its inputs lie and two of their numbers: right when it is checked, wrong while it is timed.
KEPT = (
    HEAD.replace("def mine(", "kept = {}\n\n\ndef mine(")
    + """    place = tuple((x.data_ptr(), float(x.flatten()[0]), float(x.flatten()[-1])) for x in (q, k, v))
    if place not in kept:
        kept[place] = attend(q, k, v, causal, softmax_scale, k.shape[1] - q.shape[1])
    return kept[place].clone()
"""
)
