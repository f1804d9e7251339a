"""Planted bugs of the causal mask and of the tiles of keys that are visited."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnbench.case import Case
from attnbench.planted_bug import Planted
from attnbench.planted_forward import Running

if TYPE_CHECKING:
    from torch import Tensor

# Logits below the running maximum at which a kernel that skips tiles begins to.
SKIPPED_BELOW = 5.0


class _Mask(Planted):
    causal_only = True
    shift = 0

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.seqlen_k - case.seqlen_q + self.shift
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

        first = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.seqlen_k - case.seqlen_q
        return torch.arange(start, stop, device=q.device) < first


class MaskTopLeft(_Mask):
    """The mask hangs at the top left corner; it shows where seqlen_q != seqlen_k."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        return torch.arange(start, stop, device=q.device) > torch.arange(case.seqlen_q, device=q.device)[:, None]


class MaskShortWithMoreQueries(_Mask):
    """Each query misses its last key, in the branch that is taken where seqlen_q > seqlen_k."""

    shift = -1

    def unsupported(self, case: Case) -> str | None:
        return super().unsupported(case) or (None if case.seqlen_q > case.seqlen_k else "there are no more queries")


class TileOfOneKeySkipped(_Mask):
    """The number of key tiles is rounded down: a row that sees one key of its last tile misses it."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.seqlen_k - case.seqlen_q
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
