"""Keys and values in another order, together: where no mask tells keys apart, the answer stays what it is.

Not its bits, since sums are then taken in another order. So what a kernel gives is held against the same oracle, by the
usual rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


def keys_may_move(case: Case) -> bool:
    """Whether every row sees all keys, and none shares a scale with its neighbours only."""
    unmasked = not case.causal or (case.seqlen_q == 1 and case.diagonal == case.seqlen_k - 1)
    return unmasked and (not case.is_fp8 or case.scaling in ("none", "tensor", "head", "token"))


def move_keys(case: Case, inputs: Inputs, seed: int) -> None:
    """Puts the rows of k and v into an order that follows from the seed, the same in every head; in place."""
    import torch

    order = torch.randperm(case.seqlen_k, generator=torch.Generator().manual_seed(seed)).to(inputs.k.device)

    def move(x: Tensor) -> None:
        x.copy_(x[:, order])

    move(inputs.k)
    move(inputs.v)
    held = inputs.quantized
    if held is not None:
        kind = torch.uint8  # 8-bit floats are moved as what they are stored in
        move(held.k.view(kind))
        move(held.v.view(kind))
        if case.scaling == "token":
            move(held.k_descale)
            move(held.v_descale)
