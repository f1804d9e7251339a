"""What fp32 rounding does to attention, whatever the order of its sums.

Where tensors are fp32, the eager reference's own error is no budget: torch's products sum in blocks, and a loop over
the keys, one after another, is as right and errs several times as much. So the errors are taken as independent and of
the size that such a loop makes: n additions to a growing sum leave about sqrt(n) / 2 units (Higham and Mary, A New
Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019, section 2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.reference.oracle import Reference
from attnbench.reference.rows import Attention, Rows, empty_attention, parts

if TYPE_CHECKING:
    from torch import Tensor


UNIT = 2.0**-24
# Of an exponential and of a quotient: CUDA's __expf and __fdividef are good to 2 to 4 units in the last place (CUDA C++
# Programming Guide, intrinsic functions), polynomials on CPUs alike.
FUNCTION_UNITS = 8.0


def sum_units(terms: int) -> float:
    """Standard deviation, in units of 2^-24 of the result, of a sum of so many terms and what is done to it once."""
    return FUNCTION_UNITS + math.sqrt(terms) / 2


def fp32_noise(case: Case, inputs: Inputs, rows: Rows) -> Attention:
    """Standard deviations of what fp32 arithmetic errs: out (batch, num_heads, rows, head_dim_v), lse (batch,
    num_heads, rows), fp64. inputs: fp32 q, k, v."""
    import torch

    result = empty_attention(case, rows, torch.float64)
    q, k, v = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    for part in parts(case, rows):
        queries, keys, values = part.queries(q), part.keys(k), part.keys(v)
        scores = (queries * case.scale) @ keys.mT
        each = _score_noise(case, scores, queries, keys)
        sizes = scores.abs()
        weights = scores.masked_fill_(part.hidden(0, part.limit), -torch.inf)
        lse = weights.logsumexp(dim=-1)
        weights.sub_(lse.nan_to_num(neginf=0.0)[..., None]).exp_()
        out, noisy = weights @ values, (weights * each).square()
        total = noisy.sum(dim=-1, keepdim=True)
        scatter = (noisy @ values.square() - 2 * out * (noisy @ values) + out.square() * total).clamp(min=0.0).sqrt()
        size = (weights.square() @ values.square()).sqrt() + out.abs()
        units = sum_units(max(1, part.limit))
        # What all scores of a row err alike, such as the rounding of a scale, shifts the lse and nothing else.
        alike = (weights * sizes).sum(dim=-1) * (1.0 + math.sqrt(case.head_dim) / 2)
        part.store(result, scatter + UNIT * units * size, total.squeeze(-1).sqrt() + UNIT * (units + alike))
    return result


def noise_of(ref: Reference) -> Attention:
    """`fp32_noise` of a reference's case, made once."""
    if not ref.made:
        ref.made["fp32"] = fp32_noise(ref.case, ref.inputs, ref.rows)
    return ref.made["fp32"]


def _score_noise(case: Case, scores: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Of a score, and of the exponential made of it: products of both signs leave errors of their norms' size, those of
    one sign of the sum's, sqrt(head_dim) times."""
    norms = queries.norm(dim=-1, keepdim=True) * keys.norm(dim=-1)[..., None, :] * case.scale
    each: Tensor = UNIT * (FUNCTION_UNITS + norms / 2 + scores.abs() * (1.0 + math.sqrt(case.head_dim) / 2))
    return each
