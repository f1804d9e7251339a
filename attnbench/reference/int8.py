"""q and k as 8-bit integers with a scale a block of rows, as SageAttention takes them (arXiv 2410.02367, section 3).

The mean of all keys is subtracted from each beforehand ("smooth K"): it shifts a row's scores alike, which softmax
ignores, and takes away the channels that all keys share. Products of such integers are exact in int32, so that the
scores' error is what rounding q and k makes; P and V are those of a 16-bit kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


LARGEST = 127
# Rows that share a scale in SageAttention's kernels (its `per_block_int8`).
QUERY_BLOCK = 128
KEY_BLOCK = 64


def int8_scores(
    inputs: Inputs, query_block: int = QUERY_BLOCK, key_block: int = KEY_BLOCK, smooth: bool = True
) -> tuple[Inputs, Tensor]:
    """The inputs with q and k as such integers times their scale, fp32, k without its mean; and that mean,
    (batch, 1, num_heads_kv, head_dim), fp32, times q what the lse misses."""
    k = inputs.k.float()
    mean = k.mean(dim=1, keepdim=True) if smooth else k.new_zeros((k.shape[0], 1, *k.shape[2:]))
    q = rounded(inputs.q.float(), query_block)
    return replace(inputs, q=q, k=rounded(k - mean, key_block)), mean


def rounded(x: Tensor, block: int, largest: int = LARGEST) -> Tensor:
    """x (batch, seqlen, heads, dim) as whole numbers up to `largest` times their block's and head's scale."""
    step = _steps(x, block) * (LARGEST / largest)
    return (x / step).round() * step


def _steps(x: Tensor, block: int) -> Tensor:
    """(batch, seqlen, heads, 1): what 1 stands for; 1 in a block of zeros."""
    import torch

    rows = x.shape[1]
    largest = torch.nn.functional.pad(x.abs().amax(dim=3), (0, 0, 0, -rows % block))
    step = largest.unflatten(1, (-1, block)).amax(dim=2).repeat_interleave(block, dim=1)[:, :rows] / LARGEST
    steps: Tensor = step.masked_fill(step == 0, 1.0)[..., None]
    return steps


def score_noise(case: Case, inputs: Inputs) -> float:
    """Root mean square of what this adds to a score, before softmax: roundings are even within half a step, and
    independent, so that their variance is a twelfth of the step's square. NaN counts as 0."""
    q, k = inputs.q.float().nan_to_num(nan=0.0), inputs.k.float().nan_to_num(nan=0.0)
    k = k - k.mean(dim=1, keepdim=True)
    of_q = _steps(q, QUERY_BLOCK).square().mean() * k.square().sum(dim=3).mean()
    of_k = _steps(k, KEY_BLOCK).square().mean() * q.square().sum(dim=3).mean()
    return case.scale * float(((of_q + of_k) / 12).sqrt())
