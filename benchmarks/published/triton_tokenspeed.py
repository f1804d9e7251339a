"""tokenspeed-kernel: prefill_attention_fwd, run with Triton instead of the fork of Triton that it names."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, packed, stand_in

PACKAGES = ("tokenspeed-kernel==0.1.4",)
TRITON = "3.9.0"
NOTE = "The package names a fork of Triton (tokenspeed-triton) that is not judged here."


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch
    import triton
    import triton.language as tl

    stand_in("tokenspeed_kernel._triton", triton=triton, tl=tl)
    module = import_below("tokenspeed_kernel", "tokenspeed_kernel.ops.attention.mha._triton.prefill")
    tokens, starts, _ = packed(q)
    ends = torch.cat([starts, starts[-1:] + q.shape[1]])
    out = torch.empty_like(tokens)
    nothing = torch.empty((0, *k.shape[2:]), dtype=k.dtype, device=k.device)
    module.prefill_attention_fwd(
        tokens, packed(k)[0], packed(v)[0], out, nothing, nothing, ends, ends[:0], None, causal, q.shape[1],
        sm_scale=softmax_scale,
    )  # fmt: skip
    return out.view(q.shape)


BACKENDS = (
    PublishedKernel(
        name="tokenspeed.prefill_attention_fwd", package="tokenspeed-kernel", attend=attend, equal_lengths=True,
    ),
)  # fmt: skip
