"""What NaN among the inputs must do to the output: reach every row that it belongs to, and no other head.

A row whose q, or any of whose visible keys, holds NaN is NaN throughout; NaN in v is NaN in its column. 0 x NaN is NaN
in any matrix product, so that within the same batch element and key/value head a kernel may show NaN in rows that do
not see it (a tile that is masked after the product); everywhere else none is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.records.record import Check
from attnbench.reference.rows import Rows, row_place, visible_keys

if TYPE_CHECKING:
    from torch import Tensor


IN_V = "rows that see a NaN of v and hide it"
IN_Q_OR_K = "rows with a NaN in q, or in a k that they see, that hide it"


def nan_given(inputs: Inputs) -> bool:
    return any(bool(x.isnan().any()) for x in (inputs.q, inputs.k, inputs.v))


def scores_tainted(inputs: Inputs) -> bool:
    """Whether the NaN reaches scores, and so the lse."""
    return bool(inputs.q.isnan().any()) or bool(inputs.k.isnan().any())


def tainted_heads(case: Case, inputs: Inputs) -> Tensor | None:
    """(batch, num_heads) True where a head's q, or its k or v (batch, seqlen_k, num_heads_kv, dim), holds NaN; None:
    nowhere."""
    if not nan_given(inputs):
        return None
    group = case.num_heads // case.num_heads_kv
    of_q, of_k, of_v = (x.isnan().any(dim=3).any(dim=1) for x in (inputs.q, inputs.k, inputs.v))
    tainted: Tensor = of_q | (of_k | of_v).repeat_interleave(group, dim=1)
    return tainted


def without_heads(tensor: Tensor, heads: Tensor | None) -> Tensor:
    """(batch, num_heads, rows, ...) with those heads set to 0, so that they count neither as right nor as wrong."""
    if heads is None:
        return tensor
    return tensor.masked_fill(heads.reshape(*heads.shape, *[1] * (tensor.dim() - 2)), 0.0)


def swallowed_check(case: Case, rows: Rows, inputs: Inputs, out: Tensor) -> Check:
    """Every row that a NaN belongs to is NaN: throughout, or in the column of v. out (batch, num_heads, rows,
    head_dim_v)."""
    import torch

    def first(nan: Tensor) -> Tensor:
        """nan (batch, seqlen_k, num_heads_kv, ...): the first key that holds one, (batch, num_heads, 1, ...)."""
        keys = torch.arange(case.seqlen_k, device=nan.device).reshape(1, -1, *[1] * (nan.dim() - 2))
        found = torch.where(nan, keys, case.seqlen_k).amin(dim=1)
        return found.repeat_interleave(case.num_heads // case.num_heads_kv, dim=1)[:, :, None]

    visible = visible_keys(case, rows.index)
    of_q = inputs.q.isnan().any(dim=3).transpose(1, 2).gather(2, rows.index) & (visible > 0)
    whole = of_q | (visible > first(inputs.k.isnan().any(dim=3)))
    must = whole[..., None] | (visible[..., None] > first(inputs.v.isnan()))
    swallowed = (must & ~out.isnan()).any(dim=-1)
    count = int(swallowed.sum())
    where = row_place(rows, int(swallowed.flatten().int().argmax())) if count else ""
    return Check(IN_Q_OR_K if scores_tainted(inputs) else IN_V, count, 0, count == 0, where)
