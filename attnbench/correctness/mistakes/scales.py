"""Mistakes of the softmax scale: the factor is looked for, and named where it is one of the usual ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from attnbench.case import Case
from attnbench.correctness.mistakes.guess import Guess, Tried, solving

# Of the logarithm to base 2: the factor comes out within 0.1 %.
SCALE_TOLERANCE = 1e-3
# Factors that are looked for lie within 2^-12 and 2^12, what a head_dim of 64k would make of a scale of 1.
REACH = 12


def usual(case: Case) -> Iterator[tuple[str, float]]:
    """(words, the scale that a kernel would take)"""
    yield "the softmax scale is missing", 1.0
    yield "the softmax scale is applied twice", case.scale**2
    yield "exp2 is taken without log2(e) in the scale", case.scale * math.log(2.0)
    yield "log2(e) is in the scale, but exp is taken", case.scale / math.log(2.0)
    yield "the softmax scale is 0: all keys weigh alike", 0.0
    own = case.head_dim**-0.5
    if not math.isclose(case.scale, own, rel_tol=SCALE_TOLERANCE):
        yield "the softmax scale given is ignored, head_dim**-0.5 is used", own
        return
    yield "the softmax scale is 1 / head_dim, not its root", 1.0 / case.head_dim
    if case.num_heads > 1:
        yield "the softmax scale is (heads * head_dim)**-0.5", (case.num_heads * case.head_dim) ** -0.5


def scales(tried: Tried) -> Iterator[Guess]:
    for words, scale in usual(tried.case):
        yield _with_scale(f"scale: {words}", tried, scale)


def _with_scale(words: str, tried: Tried, scale: float) -> Guess:
    return solving(words, replace(tried.case, softmax_scale=scale), tried.inputs, tried.rows)


def scale_that_fits(tried: Tried, left: Callable[[Guess], float]) -> Guess:
    """The factor of the softmax scale that leaves least, looked for by its logarithm; left: what a guess leaves."""
    from scipy.optimize import minimize_scalar

    def left_with(exponent: float) -> float:
        return left(_with_scale("", tried, tried.case.scale * 2.0**exponent))

    start = min(range(-REACH, REACH + 1), key=lambda exponent: left_with(float(exponent)))
    found = minimize_scalar(
        left_with, bounds=(start - 1.0, start + 1.0), method="bounded", options={"xatol": SCALE_TOLERANCE / 10}
    )
    factor = 2.0**found.x
    return _with_scale(
        f"scale: the softmax scale is {factor:.3g} times what it should be", tried, tried.case.scale * factor
    )
