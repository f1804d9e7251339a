"""Planted bugs of where numbers lie, and of NaN and very low scores that come in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.selftest.forward import Planted, Running

if TYPE_CHECKING:
    from torch import Tensor


# Of products before they are scaled: what a kernel took for infinity (flashinfer issue 4267).
LARGE = 5e4
# Keys of a last tile.
TAIL = 64


class StridesOfEachOther(Planted):
    """k is read with v's strides, and v with k's: right as long as both lie alike."""

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        held = inputs.quantized
        if held is not None:
            k, v = _exchanged(held.k, held.v)
            return super().operands(case, replace(inputs, quantized=replace(held, k=k, v=v)))
        k, v = _exchanged(inputs.k, inputs.v)
        return super().operands(case, replace(inputs, k=k, v=v))


def _exchanged(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if k.shape != v.shape:
        return k, v
    return k.as_strided(k.shape, v.stride()), v.as_strided(v.shape, k.stride())


class StrideOfZeroMisread(Planted):
    """Where k's heads or batch elements are one, expanded, the last tile of keys gets the v of the first keys."""

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        q, k, v = super().operands(case, inputs)
        given = inputs.k if inputs.quantized is None else inputs.quantized.k
        if 0 in given.stride():
            tail = min(TAIL, case.seqlen_k)
            v = torch.cat((v[:, :-tail], v[:, :tail]), dim=1)
        return q, k, v


class NanOfQSwallowed(Planted):
    """A row of q that holds NaN gives a row of 0."""

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        bad = inputs.q.isnan().any(dim=-1, keepdim=True)
        call = super().prepare(case, inputs)

        def cleaned() -> Outputs:
            outputs = call()
            return replace(outputs, out=outputs.out.masked_fill(bad, 0.0))

        return cleaned


class NanOfKSwallowed(Planted):
    """Scores that are NaN count as hidden, unless the query's are all of them."""

    def scores(self, case: Case, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        import torch

        scores = super().scores(case, q, k, start, stop)
        nan = scores.isnan() & ~q.isnan().any(dim=-1, keepdim=True)
        return scores.masked_fill(nan, -torch.inf)


class MaximumStartsFinite(Planted):
    """The running maximum starts at a large negative number, not at -inf: a row of lower scores comes out as 0."""

    def new_maximum(self, state: Running, number: int, scores: Tensor) -> Tensor:
        return super().new_maximum(state, number, scores).clamp(min=-LARGE * self.taken)

    def forward(self, case: Case, inputs: Inputs) -> Outputs:
        self.taken = self.scale(case)
        return super().forward(case, inputs)
