"""FlashAttention-3, the published Hopper kernel: an optional peer, from its own build, `tokenspeed-fa3` or `fa3-fwd`.

`flash_attn_interface` is what the `hopper/` folder of the FlashAttention repository installs, and what `tokenspeed-fa3`
brings, a build without backward (fp16, bf16 and e4m3); `fa3_fwd_interface` is an older one (bf16 and e4m3). Where both
are installed the former runs. Their machine code differs, so that `version` names the distribution. Causal is
bottom-right aligned; a row that sees no key gets out 0 and lse -inf (hopper/softmax.h, Softmax::finalize).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor

# Module, the distributions that may bring it, and the dtypes it was built for.
FULL_BUILD = ("flash_attn_interface", ("flash_attn_3", "flash-attn-3", "tokenspeed-fa3"), ("fp16", "bf16", "e4m3"))
FORWARD_BUILD = ("fa3_fwd_interface", ("fa3-fwd",), ("bf16", "e4m3"))
# The other kernels in these packages (sm_80) are not FlashAttention-3.
HOPPER = (9, 0)
LARGEST_HEAD_DIM = 256
# Widths that kernels are made for; a build may leave some out, and then runs the next wider one (hopper/flash_api.cpp).
KERNEL_WIDTHS = (64, 96, 128, 192, 256)
# hopper/softmax.h: for e4m3, exp2 is offset by 8, which multiplies P by 256 before it is rounded.
P_SCALE = 256


class FlashAttention3(Base):
    name = "fa3"
    devices = ("cuda",)
    # All e4m3 products of a row go into one accumulator of Hopper's FP8 tensor cores.
    accumulator = "hopper"

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        build = _installed_build()
        if build is None:
            return "not installed"
        module, distributions, _ = build
        versions = {name: package_version(name) for name in distributions}
        found = [f"{name} {number}" for name, number in versions.items() if number != "not installed"]
        return f"{found[0] if found else 'unknown version'} ({module})"

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import compute_capabilities, lacks_cuda_torch, lacks_gpu, module_installed

        reason = lacks_gpu(HOPPER)
        if reason is None and compute_capabilities() != {HOPPER}:
            return "it is a kernel for compute capability 9.0 alone, and a visible GPU has another"
        reason = reason or lacks_cuda_torch()
        if reason:
            return reason
        build = _installed_build()
        if build is None:
            return "neither flash_attn_interface nor fa3_fwd_interface is installed; one is: pip install tokenspeed-fa3"
        if build is FORWARD_BUILD and not module_installed("einops"):
            return "fa3_fwd_interface needs einops; get it with: pip install einops"
        return None

    def unsupported(self, case: Case) -> str | None:
        _, _, dtypes = _installed_build() or FULL_BUILD
        if case.dtype not in dtypes:
            return f"the installed build takes {', '.join(dtypes)}, not {case.dtype}"
        reason = beyond(case, dtypes) or _head_dim_reason(case) or _left_out_reason(case, _build_flags())
        return reason or (_fp8_reason(case) if case.is_fp8 else None)

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        source = inputs.quantized or inputs
        q, k, v = source.q, source.k, source.v
        forward = _forward()
        options: dict[str, Any] = {"softmax_scale": case.scale, "causal": case.causal}
        if case.is_fp8:
            shape = (case.batch, case.num_heads_kv)
            for name in ("q_descale", "k_descale", "v_descale"):
                options[name] = getattr(source, name).expand(shape).contiguous()

        def call() -> Outputs:
            out, lse = forward(q, k, v, **options)
            return Outputs(out, lse)

        return call


def _installed_build() -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    from attnbench.machine.facts import module_installed

    for build in (FULL_BUILD, FORWARD_BUILD):
        if module_installed(build[0]):
            return build
    return None


def _forward() -> Callable[..., tuple[Tensor, Tensor]]:
    """`flash_attn_func` of the installed build, made to return (out, lse).

    Builds differ: older ones always return (out, lse, ...), newer ones only with return_attn_probs=True.
    """
    import importlib

    build = _installed_build()
    if build is None:
        raise RuntimeError("no build of FlashAttention-3 is installed")
    function = importlib.import_module(build[0]).flash_attn_func
    asks_lse = "return_attn_probs" in inspect.signature(function).parameters
    extra = {"return_attn_probs": True} if asks_lse else {}

    def forward(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        out, lse, *_ = function(*tensors, **options, **extra)
        return out, lse

    return forward


def _head_dim_reason(case: Case) -> str | None:
    """Of hopper/flash_api.cpp, mha_fwd: what it checks of head_dim and head_dim_v."""
    multiple = 16 if case.is_fp8 else 8
    for dim in (case.head_dim, case.head_dim_v):
        if dim > LARGEST_HEAD_DIM:
            return f"it takes head dims up to {LARGEST_HEAD_DIM}, not {dim}"
        if dim % multiple:
            return f"it takes head dims that are multiples of {multiple} for {case.dtype}, not {dim}"
    wide_q = 128 < case.head_dim <= 192 and 96 < case.head_dim_v <= 128
    if case.head_dim != case.head_dim_v and not wide_q and case.head_dim > 64:
        return f"it has no kernel for head_dim {case.head_dim} with head_dim_v {case.head_dim_v}"
    return None


def _build_flags() -> Mapping[str, bool]:
    """What the build left out, as its own `flash_attn_config` says; nothing where it has none, as fa3-fwd."""
    import importlib

    from attnbench.machine.facts import module_installed

    if _installed_build() is not FULL_BUILD or not module_installed("flash_attn_config"):
        return {}
    flags = getattr(importlib.import_module("flash_attn_config"), "CONFIG", {}).get("build_flags", {})
    return dict(flags)


def _left_out_reason(case: Case, flags: Mapping[str, bool]) -> str | None:
    """Without a kernel of that width a wider one runs, on padding: another kernel than the one that is to be judged."""
    width = next(width for width in KERNEL_WIDTHS if case.head_dim <= width)
    if flags.get(f"FLASHATTENTION_DISABLE_HDIM{width}"):
        return f"the installed build has no kernel for head_dim {case.head_dim} (FLASHATTENTION_DISABLE_HDIM{width})"
    unequal = case.head_dim_v > 64 if width == 64 else case.head_dim_v <= 128
    # The flag's name has been spelt in two ways.
    names = (f"{prefix}_DISABLE_HDIMDIFF{width}" for prefix in ("FLASHATTENTION", "FLASH_ATTENTION"))
    left_out = next((name for name in names if flags.get(name)), None)
    if left_out and unequal:
        return (
            f"the installed build has no kernel for head_dim {case.head_dim} with head_dim_v {case.head_dim_v} "
            f"({left_out})"
        )
    return None


def _fp8_reason(case: Case) -> str | None:
    if case.scaling not in ("none", "tensor", "head"):
        return f"it takes one descale a head, not scaling by {case.scaling}"
    if case.scaling == "head" and case.num_heads != case.num_heads_kv:
        return "its q_descale is one a key/value head, and scaling by head has one a query head"
    if case.p_scale != P_SCALE:
        return f"it multiplies P by {P_SCALE}, not by {case.p_scale:g}"
    return None


BACKENDS = (FlashAttention3(),)
