"""Errors without a pattern: how they grow, how evenly they lie, and which precision they tell of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnbench.reference.oracle import score_scatter
from attnbench.reference.quantize import plain_inputs
from attnbench.reference.rows import visible_keys

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference
    from attnbench.reference.rows import Attention


# An error that grows with the number of keys as a power of at least this is an accumulator's.
GROWTH = 0.3
# How well it follows that power at least, as a correlation of logarithms; a mistake of some rows does not.
ALIGNED = 0.5
# Rows over their limit by more than this factor are no matter of sums.
LITTLE = 8.0
# Noise is even where nine rows in ten lie within this factor of the tenth, and all of the median.
EVEN = 5.0
# Of an error that follows the output, such as a factor; noise follows nothing.
FOLLOWS = 0.3
# Fourth moment over the square of the second: 3 of normal errors; where a few elements stand out, far more.
PEAKED = 6.0
# Scores that are off by more are no matter of precision.
LARGEST_NOISE = 0.25
# Noise of the scores reaches the lse; less than this part of it there, and the scores are right.
REACHES_LSE = 0.3
# Of the eager reference's rounding, which errs both ways: a mean error that is more of it errs one way.
ONE_WAY = 0.2
# An output that errs no more than this times the eager reference does errs as any kernel.
ORDINARY = 1.2
EVERYWHERE = "no row stands out: precision everywhere"


def small_everywhere(ref: Reference, out: Tensor, lse: Tensor | None, eager: Tensor) -> str:
    """No row is far off, all are a little: growing with the number of keys, it is how sums are accumulated."""
    if cause := _one_way(out, ref.oracle.out, eager):
        return cause
    if is_ordinary(ref, out, eager):
        return EVERYWHERE
    if cause := growing_error(ref, out, 1.0):
        return cause
    return (None if lse is None else even_noise(ref, out, lse)) or EVERYWHERE


def _one_way(out: Tensor, exact: Tensor, eager: Tensor) -> str | None:
    """Outputs that are all too near to 0, or too far, by a little."""
    if float(exact.min()) * float(exact.max()) > 0.0:
        bias, scatter = float(((out - exact) / exact).mean()), float(((eager - exact) / exact).square().mean().sqrt())
    else:  # of both signs: relative to their size, since some are next to 0
        size = float(exact.abs().mean()) or 1.0
        bias = float(((out - exact) * exact.sign()).mean()) / size
        scatter = float((eager - exact).square().mean().sqrt()) / size
    if not abs(bias) > ONE_WAY * scatter:
        return None
    words = f"bias: the output is {abs(bias):.2g} of itself too {'small' if bias < 0 else 'large'} on average"
    return f"{words}; digits are cut off, or what is added is lost in a larger sum"


def is_ordinary(ref: Reference, out: Tensor, eager: Tensor) -> bool:
    """Whether the output errs no more than any kernel's does."""
    error, budget = ((x - ref.oracle.out).square().mean().sqrt() for x in (out, eager))
    return float(error) <= ORDINARY * float(budget)


def growing_error(ref: Reference, out: Tensor, over: float) -> str | None:
    """Sums of more keys are less exact: the accumulator. over: the worst row's error over its limit."""
    if over > LITTLE or (over > 1.0 and _follows(out - ref.oracle.out, ref.oracle.out) > FOLLOWS):
        return None
    growth = _growth(out, ref.oracle.out, visible_keys(ref.case, ref.rows.index))
    if growth is None or growth <= GROWTH:
        return None
    return f"accumulation: the error grows with the number of keys (to the power {growth:.2f})"


def _growth(out: Tensor, exact: Tensor, visible: Tensor) -> float | None:
    """Slope of log(relative row error) over log(keys seen); None where all rows see about as many, or where that is not
    how the errors lie."""
    import torch

    error = ((out - exact).square().mean(dim=-1).sqrt() / row_rms(exact)).flatten()
    keys = visible.flatten().double()
    use = (error > 0) & (keys > 0)
    if int(use.sum()) < 8:
        return None
    x, y = keys[use].log(), error[use].log()
    if float(x.var()) < 0.1 or float(torch.corrcoef(torch.stack((x, y)))[0, 1]) < ALIGNED:
        return None
    return float(((x - x.mean()) * (y - y.mean())).mean()) / float(x.var())


def row_rms(exact: Tensor) -> Tensor:
    """Of each row of (..., head_dim_v); infinite where it is 0."""
    rms = exact.square().mean(dim=-1).sqrt()
    return rms.masked_fill(rms == 0, math.inf)


def even_noise(ref: Reference, out: Tensor, lse: Tensor | None) -> str | None:
    """Whether the error is what independent noise of all scores would make of it, about as much in every row; and what
    is that imprecise: noise of the scores reaches the lse too."""
    scatter = score_scatter(ref.case, plain_inputs(ref.case, ref.inputs), ref.rows)
    error, exact = out - ref.oracle.out, ref.oracle.out
    expected = scatter.out.square().mean(dim=-1).sqrt()
    use = expected > 1e-3 * exact.square().mean().sqrt()  # not of a row that takes nearly all from one key
    if not bool(error.isfinite().all()) or int(use.sum()) < 8:
        return None
    noise = error.square().mean(dim=-1).sqrt()[use] / expected[use]
    ordered = noise.sort().values
    few, median, many, most = (float(ordered[int(part * (len(ordered) - 1))]) for part in (0.1, 0.5, 0.9, 1.0))
    each = (error[use] / (noise * expected[use])[:, None]).flatten()
    peaked = float(each.pow(4).mean() / each.square().mean().square())
    if (
        not 0 < many <= min(EVEN * few, LARGEST_NOISE)
        or most > EVEN * median
        or _follows(error, exact) > FOLLOWS
        or peaked > PEAKED
    ):
        return None
    return (
        f"{_imprecise(ref, lse, scatter, use, median)}: even noise in all rows, as of scores off by about {median:.2g}"
    )


def _follows(error: Tensor, exact: Tensor) -> float:
    """The cosine between the error and the output, without its sign."""
    return float((error * exact).sum().abs() / (error.square().sum() * exact.square().sum()).sqrt())


def _imprecise(ref: Reference, lse: Tensor | None, scatter: Attention, use: Tensor, noise: float) -> str:
    if lse is None:
        return "precision of the scores, of the weights or of the sums"
    reaches = (lse - ref.oracle.lse)[use].square().mean().sqrt() / (noise * scatter.lse[use]).square().mean().sqrt()
    if float(reaches) < REACHES_LSE:
        return "precision of the weights or of the sums, not of the scores, since the lse is right"
    return "precision of the scores, which the lse shows as well"
