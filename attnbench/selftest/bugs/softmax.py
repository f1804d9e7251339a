"""Planted bugs of the online softmax, of the softmax scale, and of the precision that sums and weights are kept in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Outputs
from attnbench.case import FP8_DTYPES, Case
from attnbench.reference.fp8 import matmul_into
from attnbench.selftest.forward import Choices, Planted, Running

if TYPE_CHECKING:
    import torch
    from torch import Tensor


SIXTEEN_BIT = ("fp16", "bf16")
# Columns of the output that a bug of the second half of a tile reaches.
COLUMNS = 16
# The rescale that a kernel takes for 1, and the exponent below which another one stops.
NEARLY_ONE = 0.95
LOWEST_EXPONENT = -10.0
# Of a row's largest weight so far: what a kernel leaves out.
SMALL_WEIGHT = 1e-3
# Keys from which on rounding the sums of tiles shows on ordinary inputs.
MANY_KEYS = 1024


class StaleMaximum(Planted):
    """The second tile's exponentials use the maximum of before the tile, everything else the new one."""

    def weights(self, state: Running, number: int, scores: Tensor, maximum: Tensor) -> Tensor:
        if number == 1:
            maximum = state.maximum.masked_fill(state.maximum == -math.inf, 0.0)
        return super().weights(state, number, scores, maximum)


class RescaleMissing(Planted):
    """The running sums are not brought to a new maximum."""

    def rescale(self, state: Running, maximum: Tensor) -> Tensor:
        import torch

        return torch.ones_like(maximum)


class ScaleFivePercentHigh(Planted):
    def scale(self, case: Case) -> float:
        return 1.05 * case.scale


class ScaleMissing(Planted):
    """q k^T is not multiplied by head_dim**-0.5."""

    def scale(self, case: Case) -> float:
        return 1.0


class RescaleSkippedWhereSmall(Planted):
    """A rescale by nearly 1 is left out, although the running maximum is the new one."""

    def rescale(self, state: Running, maximum: Tensor) -> Tensor:
        import torch

        factor = super().rescale(state, maximum)
        return torch.where(factor > NEARLY_ONE, torch.ones_like(factor), factor)


class ColumnsNotRescaled(Planted):
    """The last columns of the output miss the rescale of every second tile."""

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        maximum = self.new_maximum(state, number, scores)
        factor = self.rescale(state, maximum.masked_fill(maximum == -math.inf, 0.0))
        missed = state.out * (1.0 - factor)
        super().step(case, state, number, scores, v)
        if number % 2:
            state.out[..., -COLUMNS:] += missed[..., -COLUMNS:]


class RowSumMissesLastTile(Planted):
    """The row sum is read before the last of several tiles is added."""

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        maximum = self.new_maximum(state, number, scores)
        before = state.total * self.rescale(state, maximum.masked_fill(maximum == -math.inf, 0.0))
        super().step(case, state, number, scores, v)
        if 0 < number == len(self.tiles(case)) - 1:
            state.total = before.where(before > 0, state.total)


class MaximumStartsAtZero(Planted):
    """The running maximum starts at 0 instead of minus infinity: rows of large negative logits alone underflow."""

    def new_maximum(self, state: Running, number: int, scores: Tensor) -> Tensor:
        return super().new_maximum(state, number, scores).clamp(min=0.0)


class _NoMaximumYet(Planted):
    """Before a row has seen a key its maximum is minus infinity, and so minus infinity is subtracted from itself."""

    causal_only = True

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        super().step(case, state, number, scores, v)
        state.out[(state.maximum == -math.inf).squeeze(-1)] = math.nan


class FirstTileHidden(_NoMaximumYet):
    """Tiles of keys are visited from the last on, which the causal mask may hide altogether."""

    def __init__(self, choices: Choices = Choices()):
        super().__init__(replace(choices, backwards=True))

    def unsupported(self, case: Case) -> str | None:
        last_tile = (case.seqlen_k - 1) // self.choices.tile_n * self.choices.tile_n
        hidden = case.causal and last_tile >= 1 + case.diagonal
        return super().unsupported(case) or (None if hidden else "every row sees a key of the last tile")


class RowsWithoutKeys(_NoMaximumYet):
    """Tiles are visited from the first on: NaN where a row sees no key."""

    def unsupported(self, case: Case) -> str | None:
        blind = case.seqlen_q > case.seqlen_k
        return super().unsupported(case) or (None if blind else "every row sees the first key")


class ExponentClamped(Planted):
    """A fast exp stops at e^-10, which no weight goes below."""

    def weights(self, state: Running, number: int, scores: Tensor, maximum: Tensor) -> Tensor:
        exponent = scores - maximum
        return exponent.where(exponent == -math.inf, exponent.clamp(min=LOWEST_EXPONENT)).exp()


class ScaleSquaredWhereGiven(Planted):
    """softmax_scale is applied to q and again to the scores, where it is not the default."""

    def scale(self, case: Case) -> float:
        return case.scale if case.scale == case.head_dim**-0.5 else case.scale**2


class ThroughFp16(Planted):
    """bf16 inputs are converted to fp16, which ends at 65504 and has fewer digits below 6e-5."""

    dtypes = ("bf16",)

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().operands(case, inputs)
        return q.half().float(), k.half().float(), v.half().float()


class ScoresIn16Bit(Planted):
    """The scores are rounded to the input dtype before the softmax."""

    dtypes = SIXTEEN_BIT

    def scores(self, case: Case, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        return super().scores(case, q, k, start, stop).to(_dtype(case)).float()


class ScoresOfIntegers(Planted):
    """q and k are rounded to 8-bit integers, as SageAttention does, and nothing is said of it."""

    dtypes = SIXTEEN_BIT

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().operands(case, inputs)
        return (*self.integers(q, k), v)


class SumsIn16Bit(Planted):
    """The output is accumulated in the input dtype from tile to tile."""

    dtypes = SIXTEEN_BIT

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        super().step(case, state, number, scores, v)
        state.out = state.out.to(_dtype(case)).float()


class TileSumsIn16Bit(Planted):
    """What P V adds up to over a tile of keys is rounded to 16 bits, and added in fp32 to the tiles before it."""

    dtypes = ("bf16",)

    def unsupported(self, case: Case) -> str | None:
        few = case.seqlen_k < MANY_KEYS
        return super().unsupported(case) or ("the output's own rounding hides that of a few tiles" if few else None)

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return out + self.product(p, v).bfloat16().float()


class SmallWeightsDropped(Planted):
    """Weights below a thousandth of a row's largest so far count in the row sum, and not in the output."""

    dtypes = ("bf16",)

    def rounded(self, case: Case, p: Tensor) -> Tensor:
        return super().rounded(case, p.masked_fill(p < SMALL_WEIGHT, 0.0))


class OutputIsAccumulator(Planted):
    """The output's memory holds the mean of v so far, in the output's type, from tile to tile (a Pallas kernel)."""

    dtypes = SIXTEEN_BIT

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        super().step(case, state, number, scores, v)
        total = state.total.masked_fill(state.total == 0, 1.0)
        state.out = (state.out / total).to(_dtype(case)).float() * total


class PartsNotNormalized(Planted):
    """Two parts of the keys, stored in fp16 as sums and not as means: these pass fp16's range (another one)."""

    dtypes = ("fp16",)

    def __init__(self, choices: Choices = Choices()):
        super().__init__(replace(choices, splits=2, partials_16bit=True))

    def stored(self, part: Running, dtype: torch.dtype) -> Running:
        return replace(part, out=part.out.to(dtype).float())


class WeightsTruncated(Planted):
    """P is cut off to bf16, not rounded."""

    dtypes = ("bf16",)

    def rounded(self, case: Case, p: Tensor) -> Tensor:
        return _cut_to_bf16(p)


class OutputTruncated(Planted):
    """The output is cut off to bf16, not rounded."""

    dtypes = ("bf16",)

    def finish(self, case: Case, inputs: Inputs, out: Tensor, lse: Tensor) -> Outputs:
        return super().finish(case, inputs, _cut_to_bf16(out), lse)


def _dtype(case: Case) -> torch.dtype:
    import torch

    return torch.float16 if case.dtype == "fp16" else torch.bfloat16


def _cut_to_bf16(x: Tensor) -> Tensor:
    """fp32 with the lower half of its bits 0."""
    import torch

    return (x.contiguous().view(torch.int32) & -(2**16)).view(torch.float32)


class PSaturated(Planted):
    """A rescale of up to 2^4 is skipped with P times 2^8: what passes 448 saturates (FlashAttention issues 2577, 2716).
    e5m2 holds 2^12, and the same kernel is right in it."""

    dtypes = ("e4m3",)

    def __init__(self, choices: Choices = Choices()):
        super().__init__(replace(choices, lazy_rescale=4 * math.log(2.0)))


class AccumulationTruncated(Planted):
    """Sums are Hopper's FP8 ones, 14 bits, but declared fp32 (FlashAttention pull request 2250, vLLM issue 23813)."""

    dtypes = FP8_DTYPES

    def product(self, a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
        zero = a.new_zeros((*a.shape[:-1], b.shape[-1])) if into is None else into
        return matmul_into(zero, a, b, "hopper")
