"""Planted bugs of what is read: the key/value head of a query head, the batch element, rows of v, descales."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import FP8_DTYPES, Case
from attnbench.planted_bug import Planted

if TYPE_CHECKING:
    from torch import Tensor


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

    def descales(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().descales(inputs)
        return q, v, k


class KDescaleOfNextHead(Planted):
    """Grouped heads: the descale of k is that of the next key/value head."""

    dtypes = FP8_DTYPES

    def unsupported(self, case: Case) -> str | None:
        if case.num_heads == case.num_heads_kv or case.num_heads_kv == 1 or case.scaling in ("none", "tensor"):
            return "there is no group, or one descale for all"
        return super().unsupported(case)

    def descales(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().descales(inputs)
        return q, k.roll(1, dims=-1), v
