"""Planted bugs of the causal mask and of the tiles of keys that are visited."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Quantized
from attnbench.case import FP8_DTYPES, Case
from attnbench.selftest.forward import Planted, Running

if TYPE_CHECKING:
    from torch import Tensor


# Logits below the running maximum at which a kernel that skips tiles begins to.
SKIPPED_BELOW = 5.0


class _Mask(Planted):
    causal_only = True
    shift = 0

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.diagonal + self.shift
        return torch.arange(start, stop, device=q.device) > last


class MaskSeesOneMore(_Mask):
    """Each query sees one key past the diagonal."""

    shift = 1


class MaskSeesOneLess(_Mask):
    """Each query misses the key on the diagonal."""

    shift = -1


class MaskTurnedRound(_Mask):
    """Each query sees the keys from the diagonal on, instead of those up to it."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        first = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.diagonal
        return torch.arange(start, stop, device=q.device) < first


class MaskTopLeft(_Mask):
    """The mask hangs at the top left corner; it shows where seqlen_q != seqlen_k."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        return torch.arange(start, stop, device=q.device) > torch.arange(case.seqlen_q, device=q.device)[:, None]


class CausalAlways(_Mask):
    """The mask is applied whether or not it is asked for."""

    causal_only = False

    def unsupported(self, case: Case) -> str | None:
        hides = not case.causal and case.seqlen_q > 1
        return super().unsupported(case) or (None if hides else "the mask is right, or hides nothing")


class TopLeftAlways(MaskTopLeft):
    """So is one that hangs at the top left corner."""

    causal_only = False

    def unsupported(self, case: Case) -> str | None:
        hides = not case.causal and case.seqlen_q != case.seqlen_k > 1
        return super().unsupported(case) or (None if hides else "the lengths are equal, or the mask hides nothing")


class MaskShortWithMoreQueries(_Mask):
    """Each query misses its last key, in the branch that is taken where seqlen_q > seqlen_k."""

    shift = -1

    def unsupported(self, case: Case) -> str | None:
        return super().unsupported(case) or (None if case.seqlen_q > case.seqlen_k else "there are no more queries")


class TileOfOneKeySkipped(_Mask):
    """The number of key tiles is rounded down: a row that sees one key of its last tile misses it."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.diagonal
        last = torch.where((last == start) & (start > 0), last - 1, last)
        return torch.arange(start, stop, device=q.device) > last


class LastTileDropped(Planted):
    """The loop over key tiles ends one early."""

    def tiles(self, case: Case) -> list[tuple[int, int]]:
        return super().tiles(case)[:-1]


class TailUnmasked(Planted):
    """Keys past seqlen_k in the last tile, read as 0, take part in the softmax. The causal mask hides them anyway."""

    def unsupported(self, case: Case) -> str | None:
        if case.causal or case.seqlen_k % self.choices.tile_n == 0:
            return "there are no keys past the end that a query could see"
        return super().unsupported(case)

    def scores(self, case: Case, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        import torch

        scores = super().scores(case, q, k, start, stop)
        return torch.nn.functional.pad(scores, (0, self.choices.tile_n - (stop - start)))

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return super().add_values(out, p[..., : v.shape[2]], v)


class KeysCountedAsQueries(Planted):
    """The number of keys is taken from q: some are not read, or what lies past the end, read as 0, counts."""

    def unsupported(self, case: Case) -> str | None:
        same = case.seqlen_q == case.seqlen_k
        return super().unsupported(case) or ("both numbers are the same" if same else None)

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        q, k, v = super().operands(case, inputs)
        more = case.seqlen_q - case.seqlen_k
        k, v = (torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, more)) for tensor in (k, v))
        return q, k, v

    def tiles(self, case: Case) -> list[tuple[int, int]]:
        return super().tiles(replace(case, seqlen_k=case.seqlen_q))

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        return super().hidden(replace(case, seqlen_k=case.seqlen_q), start, stop, q)


class TailOfGroupsShifted(Planted):
    """Grouped heads: in a last tile that is short, the last group's rows of v are one row off."""

    def unsupported(self, case: Case) -> str | None:
        if case.num_heads == case.num_heads_kv or case.seqlen_k % self.choices.tile_n < 2:
            return "there is no group, or no short tile"
        return super().unsupported(case)

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        if v.shape[2] < self.choices.tile_n:
            group = case.num_heads // case.num_heads_kv
            v = v.clone()
            v[:, -group:] = v[:, -group:].roll(1, dims=2)
        super().step(case, state, number, scores, v)


class SmallTilesSkipped(Planted):
    """A tile whose weights are all below e^-5 of the largest so far is taken for nothing."""

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        small = scores.amax(dim=-1, keepdim=True) < state.maximum - SKIPPED_BELOW
        super().step(case, state, number, scores.masked_fill(small, -math.inf), v)


# Planted bugs of what is read: the key/value head of a query head, the batch element, rows of v, descales.


class WrongGqaHead(Planted):
    """Query heads take the key/value heads in turn instead of in groups."""

    def unsupported(self, case: Case) -> str | None:
        return super().unsupported(case) or ("no groups" if case.num_heads == case.num_heads_kv else None)

    def kv_heads(self, case: Case, tensor: Tensor) -> Tensor:
        import torch

        return torch.arange(case.num_heads, device=tensor.device) % case.num_heads_kv


class VTileTransposed(Planted):
    """The first square of a V tile is taken transposed."""

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        side = min(v.shape[2], v.shape[3])
        turned = v.clone()
        turned[:, :, :side, :side] = v[:, :, :side, :side].transpose(2, 3)
        return super().add_values(out, p, turned)


class KeysAtStrideOfQueries(Planted):
    """Batch elements of k and v are looked for where q's lie, counted in rows."""

    def unsupported(self, case: Case) -> str | None:
        if case.batch == 1 or case.seqlen_q == case.seqlen_k:
            return "both strides are the same"
        return super().unsupported(case)

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        q, k, v = super().operands(case, inputs)
        first = torch.arange(case.batch, device=q.device)[:, None] * case.seqlen_q
        rows = (first + torch.arange(case.seqlen_k, device=q.device)) % (case.batch * case.seqlen_k)
        return q, k.flatten(0, 1)[rows], v.flatten(0, 1)[rows]


class ThirdElementReadsSecond(Planted):
    """Batch elements from the third on read the keys and values of the second."""

    def unsupported(self, case: Case) -> str | None:
        return super().unsupported(case) or (None if case.batch > 2 else "there is no third batch element")

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        q, k, v = super().operands(case, inputs)
        element = torch.arange(case.batch, device=q.device).clamp(max=1)
        return q, k[element], v[element]


class DescalesSwapped(Planted):
    """The descales of k and v are taken for each other."""

    dtypes = FP8_DTYPES

    def descales(self, held: Quantized) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().descales(held)
        return q, v, k


class KDescaleOfNextHead(Planted):
    """Grouped heads: the descale of k is that of the next key/value head."""

    dtypes = FP8_DTYPES

    def unsupported(self, case: Case) -> str | None:
        if case.num_heads == case.num_heads_kv or case.num_heads_kv == 1 or case.scaling in ("none", "tensor"):
            return "there is no group, or one descale for all"
        return super().unsupported(case)

    def descales(self, held: Quantized) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().descales(held)
        return q, k.roll(1, dims=-1), v
