"""Mistakes of precision whose error is no larger than rounding: found by what it looks like, not by its size.

In bf16 the output's own rounding hides scores rounded to 16 bits, products of P and V summed in 16 bits tile by tile,
and small weights left out. But what each of them does to every element of the output follows from the inputs
(`predicted`). So the output's error is regressed on that prediction, over some ten thousand elements: of a kernel that
makes the mistake, its share in the error is near 1; of a right one it is near 0, since the rounding of P and of the
output knows nothing of it. Rows are the independent samples (standard errors clustered by row: Liang and Zeger,
Biometrika 73, 1986, theorem 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Base, Inputs
from attnbench.correctness.patterns.predicted import SCORES, SUMS, WEIGHTS, predicted
from attnbench.records.record import Check
from attnbench.reference.rows import SPOT, Rows, visible_keys

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference


# Rows at which kinds are predicted, and columns at least, of which every other is left out where there are twice as
# many. Rows whose scores spread most are taken: there small weights matter most, and of these it takes many.
LOOKED_AT: Mapping[tuple[str, ...], tuple[int, int]] = {(SCORES, SUMS): (64, 64), (WEIGHTS,): (384, 128)}
ROWS_AT_LEAST = 64
# A row that sees fewer keys is a matter of few weights, whose roundings are no noise.
KEYS_AT_LEAST = 512
# And where there are more, predictions take longer than the answer.
KEYS_AT_MOST = 2**14
# Heads of all batch elements that are looked at, for the time it takes.
HEADS_AT_MOST = 64
# Of a predicted error, a share up to this may be in any kernel's: correlations of one rounding with another.
SHARE = 0.05
# Standard errors by which the share may be larger. With 64 rows, chance passes it once in 10^9 times (Student's t).
LIMIT = 7.0
# Of the largest rounding of a number, on average.
USUAL_ROUNDING = 0.41
BF16_UNIT = 2.0**-8
TINY = 1e-30
RULES: Mapping[str, str] = {
    SCORES: "error as of scores in 16 bits, in standard errors",
    SUMS: "error as of sums in 16 bits, in standard errors",
    WEIGHTS: "error as of small weights left out, in standard errors",
}


class Found(NamedTuple):
    """How much of a prediction is in an output's error, and by how many standard errors that is more than SHARE."""

    kind: str
    words: str
    share: float
    sigmas: float


class Looked(NamedTuple):
    """Predictions at some rows, as the regression takes them.

    names: kind and words of each; places (batch, num_heads, rows) among the rows of the reference; step: every so many
    columns; weighted (predictions, batch, num_heads, rows, columns) fp32: errors over the variance of a right answer's;
    sizes (predictions, batch, num_heads, rows): their products with the errors, summed.
    """

    names: tuple[tuple[str, str], ...]
    places: Tensor
    step: int
    weighted: Tensor
    sizes: Tensor


def pattern_checks(ref: Reference, backend: Base, out: Tensor, exact: Tensor) -> list[Check]:
    """One check a kind of mistake; out, exact (batch, num_heads, rows, head_dim_v), fp64. Of bf16 and N(0, 1) only."""
    worst: dict[str, float] = {}
    for found in patterns(ref, backend, out, exact):
        worst[found.kind] = max(worst.get(found.kind, 0.0), found.sigmas)
    return [Check(RULES[kind], sigmas, LIMIT, sigmas <= LIMIT) for kind, sigmas in worst.items()]


def pattern_cause(ref: Reference, backend: Base, out: Tensor) -> str | None:
    """The mistake that most of the error looks like, in words; None where it looks like none."""
    found = [one for one in patterns(ref, backend, out, ref.oracle.out) if one.sigmas > LIMIT]
    if not found:
        return None
    best = max(found, key=lambda one: one.sigmas)
    return f"{best.words} (that error's share in the output's is {best.share:.2f})"


def patterns(ref: Reference, backend: Base, out: Tensor, exact: Tensor) -> Iterator[Found]:
    """Every prediction that may be held against this backend on this case, with its share in the error."""
    if not applies(ref) or backend.approximate:
        return
    allowed = declared(backend)
    for looked in looked_at(ref):
        error = _at(out - exact, looked.places, looked.step)
        for (kind, words), share, sigmas in zip(looked.names, *_shares(looked, error)):
            if kind not in allowed:
                yield Found(kind, words, share, sigmas)


def applies(ref: Reference) -> bool:
    """Whether there are predictions for such a case, and more rows than those of a spot check."""
    case = ref.case
    ordinary = case.dtype == case.key_dtype == "bf16" and case.inputs == "normal"
    return ordinary and case.seqlen_k <= KEYS_AT_MOST and ref.rows.coverage != SPOT


def declared(backend: Base) -> set[str]:
    """Kinds of mistakes that the backend says it makes; its `accumulator` is that of 8-bit sums, not of a bf16 case."""
    kinds = {SCORES} if backend.scores_16bit or backend.scores_int8 else set()
    return kinds | ({SUMS} if backend.partials_16bit else set())


def looked_at(ref: Reference) -> tuple[Looked, ...]:
    """The predictions, made once a reference; none where too few rows see enough keys."""
    if "patterns" not in ref.looked:
        each = (_looked(ref, kinds, *wanted) for kinds, wanted in LOOKED_AT.items())
        ref.looked["patterns"] = tuple(looked for looked in each if looked is not None)
    found: tuple[Looked, ...] = ref.looked["patterns"]
    return found


def _looked(ref: Reference, kinds: tuple[str, ...], wanted: int, columns: int) -> Looked | None:
    import torch

    case, inputs = ref.case, ref.inputs
    some = slice(max(1, HEADS_AT_MOST // case.num_heads))
    index = ref.rows.index[some]
    batch, heads, _ = index.shape
    enough = visible_keys(case, index) >= KEYS_AT_LEAST
    each = min(int(enough.sum(dim=2).min()), -(-wanted // (batch * heads)))
    if each * batch * heads < ROWS_AT_LEAST:
        return None
    norms = inputs.q[some].float().square().sum(dim=3).transpose(1, 2).gather(2, index)
    places = norms.masked_fill(~enough, -math.inf).topk(each, dim=2).indices.sort(dim=2).values
    step = max(1, case.head_dim_v // columns)
    given = Inputs(inputs.q[some], inputs.k[some], inputs.v[some][..., ::step])
    few = replace(case, batch=batch, head_dim_v=given.v.shape[-1])
    found = predicted(few, given, Rows(index.gather(2, places), "sampled"), kinds)
    errors = torch.stack([one.error for one in found])
    weighted = errors * _precision(_at(ref.oracle.out, places, step))
    names = tuple((one.kind, one.words) for one in found)
    return Looked(names, places, step, weighted, (weighted * errors).sum(dim=-1))


def _at(x: Tensor, places: Tensor, step: int) -> Tensor:
    """(batch, num_heads, rows, columns) fp32 of (..., head_dim_v) at all rows of the reference."""
    x = x[: places.shape[0], ..., ::step]
    return x.gather(2, places[..., None].expand(*places.shape, x.shape[-1])).float()


def _precision(exact: Tensor) -> Tensor:
    """One over the variance that rounding the output and the weights gives to each element of a right answer."""
    import torch

    _, exponent = torch.frexp(exact)
    output = torch.ldexp(torch.full_like(exact, BF16_UNIT), exponent).square() / 12  # the distance of its neighbours
    weights = (USUAL_ROUNDING * BF16_UNIT) ** 2 * exact.square().mean(dim=-1, keepdim=True)
    return 1.0 / (output + weights).clamp(min=TINY)


def _shares(looked: Looked, error: Tensor) -> tuple[list[float], list[float]]:
    """Of each prediction the coefficient of the weighted regression, and by how many standard errors it is above SHARE;
    0 where there is nothing to go by."""
    products = (looked.weighted * error).sum(dim=-1).flatten(1).double()
    sizes = looked.sizes.flatten(1).double()
    size = sizes.sum(dim=1).clamp(min=TINY)
    share = products.sum(dim=1) / size
    by_row = products - share[:, None] * sizes
    # Where a few rows decide, their scatter is luck: it is not taken for less than the errors' variance explains.
    scatter = (by_row.square().sum(dim=1).sqrt() / size).maximum(size**-0.5)
    sigmas = ((share - SHARE) / scatter).clamp(min=0.0)
    return share.nan_to_num(nan=0.0).tolist(), sigmas.nan_to_num(nan=0.0, posinf=0.0).tolist()
