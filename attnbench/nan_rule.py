"""What NaN in v must do to the output: reach every row that sees it, and no other head.

0 x NaN is NaN in any matrix product, so that within the same batch element and key/value head a kernel may show NaN in
rows that do not see it (a tile that is masked after the product); everywhere else none is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.records.record import Check
from attnbench.reference.oracle import Rows, row_place, visible_keys

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.case import Case


def tainted_heads(case: Case, v: Tensor) -> Tensor | None:
    """(batch, num_heads) True where a head's v (batch, seqlen_k, num_heads_kv, dim) holds NaN; None: nowhere."""
    nan = v.isnan()
    if not bool(nan.any()):
        return None
    return nan.any(dim=3).any(dim=1).repeat_interleave(case.num_heads // case.num_heads_kv, dim=1)


def without_heads(tensor: Tensor, heads: Tensor | None) -> Tensor:
    """(batch, num_heads, rows, ...) with those heads set to 0, so that they count neither as right nor as wrong."""
    if heads is None:
        return tensor
    return tensor.masked_fill(heads.reshape(*heads.shape, *[1] * (tensor.dim() - 2)), 0.0)


def swallowed_check(case: Case, rows: Rows, v: Tensor, out: Tensor) -> Check:
    """Every row that sees a NaN of v is NaN in its column. out (batch, num_heads, rows, head_dim_v)."""
    import torch

    keys = torch.arange(case.seqlen_k, device=v.device)[None, :, None, None]
    first = torch.where(v.isnan(), keys, case.seqlen_k).amin(dim=1)  # (batch, num_heads_kv, head_dim_v)
    first = first.repeat_interleave(case.num_heads // case.num_heads_kv, dim=1)[:, :, None]
    sees = visible_keys(case, rows.index)[..., None] > first
    swallowed = (sees & ~out.isnan()).any(dim=-1)
    count = int(swallowed.sum())
    where = row_place(rows, int(swallowed.flatten().int().argmax())) if count else ""
    return Check("rows that see a NaN of v and hide it", count, 0, count == 0, where)
