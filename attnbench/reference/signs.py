"""Inputs whose numbers change between timed calls, and whose answer is known all the same.

The signs of q's and of k's columns are flipped alike: each product q_i k_i, and so every logit, stays as it is, bit for
bit. The signs of v's columns are flipped, and the output's columns flip with them. A kernel that answers from what it
kept of earlier numbers is then wrong, and one oracle serves for all. Flips are made in place, as writes of the device
that torch's version counters do not see, and undone exactly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Outputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# Rows of signs that are drawn at a time: what a renewal costs beside the flips themselves is then next to nothing.
DRAWN = 256


class Signs:
    """A sequence of secret signs of columns, which input sets of one shape go through, each from a start of its own."""

    def __init__(self, inputs: Inputs, seed: int):
        import torch

        self.device = inputs.q.device
        self.dims = inputs.q.shape[-1], inputs.v.shape[-1]
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.rows = self.draw(1)
        self._changes: dict[tuple[int, int], list[Tensor]] = {}

    def draw(self, count: int) -> Tensor:
        """(count, head_dim + head_dim_v), true where a column is to be flipped."""
        import torch

        shape = count, sum(self.dims)
        return torch.randint(0, 2, shape, generator=self.generator, device=self.device, dtype=torch.uint8).bool()

    def columns(self, rows: Tensor, part: int, size: int) -> Tensor:
        """Sign bits of numbers of so many bytes in the columns of q and k (part 0) or v (1)."""
        dim = self.dims[0]
        kind, sign = _sign_bit(size)
        return (rows[..., :dim] if part == 0 else rows[..., dim:]).to(kind) * sign

    def change(self, place: int, part: int, size: int) -> Tensor:
        """What flips from row `place` to the one behind it."""
        import torch

        if place + 1 >= len(self.rows):
            self.rows = torch.cat((self.rows, self.draw(DRAWN)))
            self._changes.clear()
        if (part, size) not in self._changes:
            changed = self.rows[1:] ^ self.rows[:-1]
            self._changes[part, size] = list(self.columns(changed, part, size).unbind())
        return self._changes[part, size][place]


class SignedInputs:
    """An input set and the signs that its columns have now; none is flipped at first."""

    def __init__(self, inputs: Inputs, signs: Signs):
        self.inputs, self._signs = inputs, signs
        held = inputs.quantized
        qk, v = [inputs.q, inputs.k], [inputs.v]
        if held is not None:
            qk, v = [*qk, held.q, held.k], [*v, held.v]
        # NOTE: `data` has a version counter of its own: torch does not count what is written through it.
        self._numbers = [
            (tensor.data.view(_sign_bit(tensor.element_size())[0]), part, tensor.element_size())
            for part, tensors in enumerate((qk, v))
            for tensor in tensors
        ]
        self._start = signs.draw(1)[0]
        self._place: int | None = None

    def renew(self) -> None:
        """Other signs than any before."""
        if self._place is None:
            self._place = 0
            self._flip(self._flipped())
            return
        for numbers, part, size in self._numbers:
            numbers.bitwise_xor_(self._signs.change(self._place, part, size))
        self._place += 1

    def rewrite(self) -> None:
        """The same signs, written as `renew` writes others."""
        for numbers, _, _ in self._numbers:
            numbers.bitwise_xor_(0)

    def restore(self) -> None:
        """The numbers as they were at first."""
        if self._place is not None:
            self._flip(self._flipped())
            self._place = None

    def plain(self, outputs: Outputs) -> Outputs:
        """The outputs as they are of the numbers as they were at first; a copy."""
        if self._place is None:
            return replace(outputs, out=outputs.out.clone())
        signs = 1 - 2 * self._flipped()[self._signs.dims[0] :].to(outputs.out.dtype)
        return replace(outputs, out=outputs.out * signs)

    def _flipped(self) -> Tensor:
        assert self._place is not None, "what is flipped follows from the place in the sequence"
        return self._signs.rows[self._place] ^ self._start

    def _flip(self, columns: Tensor) -> None:
        for numbers, part, size in self._numbers:
            numbers.bitwise_xor_(self._signs.columns(columns, part, size))


def _sign_bit(size: int) -> tuple[torch.dtype, int]:
    """Of a floating-point number of so many bytes, as an integer of a type."""
    import torch

    return {1: (torch.uint8, 0x80), 2: (torch.int16, -(2**15)), 4: (torch.int32, -(2**31))}[size]
