"""What would give this wrong answer? Known mistakes are tried one by one; those that explain it are named.

A mistake is another problem: another mask, another scale, other heads, fewer keys (`mistakes`). It is believed where
the kernel's output is right for that problem, to what rounding explains. Factors that fit exactly come before names of
factors, and where several mistakes give the same numbers, all are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.correctness.mistakes.guess import Guess, Tried
from attnbench.correctness.mistakes.heads import heads
from attnbench.correctness.mistakes.keys import keys, zeros_past_the_end
from attnbench.correctness.mistakes.layouts import layouts
from attnbench.correctness.mistakes.masks import masks
from attnbench.correctness.mistakes.numbers import descales, dimensions, precision
from attnbench.correctness.mistakes.scales import scale_that_fits, scales
from attnbench.correctness.mistakes.sums import narrow, sweeps
from attnbench.reference.quantize import plain_inputs
from attnbench.reference.rows import Attention, Rows
from attnbench.reference.single import UNIT, sum_units

if TYPE_CHECKING:
    from torch import Tensor


# Rows a head on which guesses are tried: the wrongest ones, and some of all, which a right guess explains too.
WRONGEST_TRIED = 12
SPREAD_TRIED = 4
# Scores of all tried rows together: a guess on so many takes a few hundredths of a second on one core.
SCORES_TRIED = 2**18
# Heads of all batch elements that are tried at most, for the time it takes; of larger batches so many elements are.
HEADS_TRIED = 2**12
ELEMENTS_TRIED = 64
# What rounding may leave: this many times the squared error of the eager reference, which rounds in one of many ways.
ROUNDINGS = 4.0
# Half the machine epsilon of the output: of bf16, which 8-bit cases give too, and of fp16.
UNITS = {"fp16": 2.0**-11}
COARSEST = 2.0**-8
# Of the error, a guess leaves no more than this in any case: what leaves more explains nothing, however large rounding.
EXPLAINED = 0.25
# A guess that leaves this little is held against its own rounding too, where that is larger than the problem's.
PROMISING = 0.04
# Guesses that leave as much as the best one but for luck are named beside it.
AS_GOOD = 1.5
SAME_LEFT = 1e-6
# Sums in 16 bits err by up to this times the eager reference's error; mistakes by far more.
SUMS_ERROR = 30.0


NOTHING = "the output is 0"


class Answer(NamedTuple):
    """A kernel's output and what it is held against, fp64 (batch, num_heads, rows, head_dim_v)."""

    out: Tensor
    exact: Tensor
    eager: Tensor


def likely_mistake(case: Case, inputs: Inputs, rows: Rows, out: Tensor, exact: Tensor, eager: Tensor) -> str | None:
    """The mistakes that explain the output, in words; None where none does.

    out, exact, eager: fp64 (batch, num_heads, rows, head_dim_v) at `rows`.
    """
    if case.num_heads > HEADS_TRIED:
        return None
    answer = Answer(out, exact, eager)
    if case.batch * case.num_heads > HEADS_TRIED:
        case, inputs, rows, answer = _some_elements(case, inputs, rows, answer)
    rows, answer = _wrongest(case, rows, answer)
    tried = Tried(case, _wide(plain_inputs(case, inputs)), rows)
    weighing = Weighing(case, answer)
    if not math.isfinite(weighing.error) or weighing.error == 0.0:
        return None
    found = [(weighing.left(guess), guess) for guess in _all(tried, inputs, weighing)]
    believed = [(left, guess.words) for left, guess in found if weighing.believes(guess, left)]
    if not believed:
        return _fitted(tried, answer, weighing)
    best = min(believed)[0]
    named = [words for left, words in believed if left <= AS_GOOD * best + SAME_LEFT * weighing.error]
    return ", or ".join(dict.fromkeys(named))


def _unit(case: Case) -> float:
    if case.dtype == case.key_dtype == "fp32":
        return UNIT * sum_units(case.seqlen_k)
    return max(UNITS.get(name, COARSEST) for name in (case.dtype, case.key_dtype) if name != "fp32")


class Weighing:
    """How much of an answer's error a guess leaves, each head's relative to its own RMS: heads count alike, though one
    be a millionth of another."""

    def __init__(self, case: Case, answer: Answer):
        scale = answer.exact.square().mean(dim=(2, 3), keepdim=True).sqrt()
        self._scale = scale.masked_fill(scale == 0, 1.0)
        self._out, self.exact, self._unit = answer.out, answer.exact, _unit(case)
        self.error, self.noise = self._off(answer.exact), self._between(answer.eager, answer.exact)

    def _between(self, a: Tensor, b: Tensor) -> float:
        return float(((a - b) / self._scale).square().mean())

    def _off(self, answer: Tensor) -> float:
        return self._between(self._out, answer)

    def left(self, guess: Guess) -> float:
        left = self._off(guess.answer().out)
        return left if math.isfinite(left) else math.inf

    def believes(self, guess: Guess, left: float) -> bool:
        """Whether no more is left than rounding explains: the problem's own, or where the guess comes near, the
        guess's."""
        most = EXPLAINED * self.error
        if left <= min(ROUNDINGS * self.noise, most):
            return True
        if left > min(PROMISING * self.error, most):
            return False
        answer = guess.answer().out
        floor = self._unit**2 * float((answer / self._scale).square().mean())
        rounded = 0.0 if guess.rounded is None else self._between(guess.rounded().out, answer)
        return left <= ROUNDINGS * max(floor, rounded)


def _some_elements(case: Case, inputs: Inputs, rows: Rows, answer: Answer) -> tuple[Case, Inputs, Rows, Answer]:
    """Of a batch of very many elements a few, from the first wrong one on."""
    count = max(1, min(ELEMENTS_TRIED, HEADS_TRIED // case.num_heads))
    wrong = (answer.out - answer.exact).abs().flatten(1).amax(dim=1)
    wrong = wrong > 0.5 * wrong.max()
    start = min(int(wrong.int().argmax()), case.batch - count)
    some = slice(start, start + count)
    held = inputs.quantized
    if held is not None:
        of_all = case.scaling in ("none", "tensor")
        held = Quantized(
            held.q[some], held.k[some], held.v[some],
            *(d if of_all else d[some] for d in (held.q_descale, held.k_descale, held.v_descale)),
        )  # fmt: skip
    given = Inputs(inputs.q[some], inputs.k[some], inputs.v[some], held)
    few = Answer(*(x[some] for x in answer))
    return replace(case, batch=count), given, Rows(rows.index[some], rows.coverage), few


def _wide(plain: Inputs) -> Inputs:
    """In fp64, once for all guesses."""
    return Inputs(plain.q.double(), plain.k.double(), plain.v.double())


def _wrongest(case: Case, rows: Rows, answer: Answer) -> tuple[Rows, Answer]:
    import torch

    count = rows.index.shape[-1]
    most = max(1, SCORES_TRIED // (case.batch * case.num_heads * case.seqlen_k))
    spread = min(SPREAD_TRIED, count, max(1, most // 2))
    rank = (answer.out - answer.exact).square().sum(dim=-1)
    rank[..., torch.linspace(0, count - 1, spread).long()] = math.inf
    chosen = rank.topk(min(WRONGEST_TRIED + SPREAD_TRIED, count, most), dim=-1).indices.sort(dim=-1).values
    wide = chosen[..., None].expand(*chosen.shape, answer.out.shape[-1])
    return Rows(rows.index.gather(2, chosen), "sampled"), Answer(*(tensor.gather(2, wide) for tensor in answer))


def _all(tried: Tried, given: Inputs, weighing: Weighing) -> Iterator[Guess]:
    yield Guess(NOTHING, partial(_nothing, weighing))
    for kind in (scales, masks, keys, heads, layouts, dimensions, sweeps, precision):
        yield from kind(tried)
    yield from descales(tried.case, given, tried.rows)
    few_sums = 2.0 * weighing.noise < weighing.error < SUMS_ERROR**2 * weighing.noise
    if tried.case.dtype in ("fp16", "bf16") and few_sums:  # any kernel's rounding looks like few sums
        yield from narrow(tried)


def _nothing(weighing: Weighing) -> Attention:
    zeros = weighing.exact * 0.0
    return Attention(zeros, zeros[..., 0])


def _fitted(tried: Tried, answer: Answer, weighing: Weighing) -> str | None:
    """A number that is looked for: the factor of the softmax scale, keys past the end, the factor of the output."""
    fits: Sequence[Guess | None] = (
        scale_that_fits(tried, weighing.left),
        zeros_past_the_end(tried, answer.out, answer.exact),
        _output_that_fits(answer),
    )
    for guess in fits:
        if guess is not None and weighing.believes(guess, weighing.left(guess)):
            return guess.words
    return None


def _output_that_fits(answer: Answer) -> Guess | None:
    squares = float(answer.exact.square().sum())
    if squares == 0.0:
        return None
    factor = float((answer.out * answer.exact).sum()) / squares
    words = f"scale: the whole output is {factor:.3g} times what it should be"
    return Guess(words, lambda: Attention(factor * answer.exact, answer.exact[..., 0]))
