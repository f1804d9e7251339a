"""A tensor of one head, or of one batch element, that stands for several by a stride of 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


def broadcast(case: Case, inputs: Inputs) -> Iterator[tuple[Case, Inputs]]:
    """The problem with the first key/value head for every query head, and with the first element's k and v for all:
    expanded, not copied. `repro` copies this function's source."""
    if case.num_heads > 1:
        yield replace(case, num_heads_kv=case.num_heads), expanded(case, inputs, 2, case.num_heads)
    if case.batch > 1:
        yield case, expanded(case, inputs, 0, case.batch)


def expanded(case: Case, inputs: Inputs, dim: int, count: int) -> Inputs:
    """k and v (batch, seqlen_k, heads, d), the first along `dim` in place of all."""

    def first(x: Tensor) -> Tensor:
        shape = list(x.shape)
        shape[dim] = count
        return x.narrow(dim, 0, 1).expand(shape)

    def descale(x: Tensor) -> Tensor:
        """(batch, heads) and (batch, groups, heads); one number stays."""
        if x.dim() == 1:
            return x
        at = 0 if dim == 0 else x.dim() - 1
        shape = list(x.shape)
        shape[at] = count
        return x.narrow(at, 0, 1).expand(shape).contiguous()

    held = inputs.quantized
    if held is not None:
        held = Quantized(
            held.q, first(held.k), first(held.v), held.q_descale, descale(held.k_descale), descale(held.v_descale)
        )
    return Inputs(inputs.q, first(inputs.k), first(inputs.v), held)
