"""flashattention2-custom-mask: flash_attention_custom_mask without a mask, and with a causal one as its mask."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("flashattention2-custom-mask==0.1.1",)
TRITON = "3.7.1"
NOTE = (
    "Its tiles are loaded and stored without a boundary check: lengths must be multiples of the tile, which "
    "its documentation does not say."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch
    from fa2_custom_mask import flash_attention_custom_mask

    batch, heads, seqlen, _ = q.shape
    mask = None
    if causal:  # 0 is hidden, as the package's own test makes it
        mask = torch.ones(batch, heads, seqlen, seqlen, device=q.device, dtype=torch.int32).tril()
    return flash_attention_custom_mask(q, k, v, mask, softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="fa2_custom_mask.flash_attention_custom_mask", package="flashattention2-custom-mask", attend=attend,
        heads_first=True, head_dims=(16, 32, 64, 128, 256), equal_lengths=True, grouped=False,
    ),
)  # fmt: skip
