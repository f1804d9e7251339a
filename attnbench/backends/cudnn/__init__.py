"""cuDNN's fused attention: through torch's own operator, and through nvidia-cudnn-frontend where torch cannot say it.

torch's operator masks top-left (aten/src/ATen/native/cudnn/MHA.cpp, set_causal_mask), so causal cases whose lengths
differ go through the frontend's bottom-right mask; so do e4m3 cases. `kernel_facts` says which way a case goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import FP8_DTYPES, Case

OLDEST_CAPABILITY = (8, 0)
HOPPER = (9, 0)
BLACKWELL = (10, 0)
# Head dims in 16 bit: up to 256 on sm_90 and sm_100, up to 128 on others (torch's sdp_utils.cpp; cuDNN 9.19 plans every
# multiple of 8 up to 256 for sm_90).
LARGEST_HEAD_DIM = {"datacenter": 256, "other": 128}
FRONTEND = "pip install --no-deps nvidia-cudnn-frontend"


class Cudnn(Base):
    name = "cudnn"
    devices = ("cuda",)

    def version(self) -> str:
        """cuDNN's version as its wheel says it, torch's, and the frontend's where it is installed."""
        from attnbench.machine.facts import package_version

        packages = ("torch", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-frontend")
        versions = {package: package_version(package) for package in packages}
        return ", ".join(f"{package} {found}" for package, found in versions.items() if found != "not installed")

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import lacks_cuda_torch, lacks_gpu

        return lacks_gpu(OLDEST_CAPABILITY) or lacks_cuda_torch()

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, ("fp16", "bf16", *FP8_DTYPES)):
            return reason
        if case.causal and case.seqlen_q > case.seqlen_k:
            return "its bottom-right causal mask needs seqlen_q <= seqlen_k"
        if case.seqlen_k == 1:
            return "torch gives cuDNN no case with a single key"
        reason = _fp8_reason(case) if case.is_fp8 else _head_dim_reason(case)
        return reason or (_frontend_reason() if needs_frontend(case) else None)

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return _through_frontend(case, inputs) if needs_frontend(case) else _through_torch(case, inputs)

    def kernel_facts(self, case: Case) -> Mapping[str, Any]:
        frontend = "cudnn.pygraph.sdpa_fp8" if case.is_fp8 else "cudnn.pygraph.sdpa"
        return {"name": frontend if needs_frontend(case) else "aten::_scaled_dot_product_cudnn_attention"}


def needs_frontend(case: Case) -> bool:
    return case.is_fp8 or (case.causal and case.seqlen_q != case.seqlen_k)


def _through_torch(case: Case, inputs: Inputs) -> Call:
    import torch

    q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention.default

    def call() -> Outputs:
        out, lse, *_ = operator(q, k, v, None, True, 0.0, case.causal, False, scale=case.scale)
        # torch keeps cuDNN's trailing dimension of 1.
        return Outputs(out.transpose(1, 2), lse.view(case.batch, case.num_heads, case.seqlen_q))

    return call


def _through_frontend(case: Case, inputs: Inputs) -> Call:
    # NOTE: torch first. The frontend looks for libcudnn among the loaded libraries; it must find torch's.
    import torch

    from attnbench.backends.cudnn import graph

    source = inputs.quantized if case.is_fp8 else inputs
    buffers = {name: getattr(source, name).contiguous() for name in ("q", "k", "v")}
    if case.is_fp8:
        descales = {name: getattr(source, name) for name in ("q_descale", "k_descale", "v_descale")}
        buffers |= graph.fp8_buffers(case, descales)
    buffers = {name: _heads_first(name, buffer) for name, buffer in buffers.items()}
    execute = graph.executor(graph.planned(case), buffers)

    def call() -> Outputs:
        out = inputs.q.new_empty((case.batch, case.seqlen_q, case.num_heads, case.head_dim_v))
        lse = inputs.q.new_empty((case.batch, case.num_heads, case.seqlen_q), dtype=torch.float32)
        execute(out.transpose(1, 2), lse.unsqueeze(-1))
        return Outputs(out, lse)

    return call


def _heads_first(name: str, buffer: Any) -> Any:
    return buffer.transpose(1, 2) if name in ("q", "k", "v") else buffer


def _head_dim_reason(case: Case) -> str | None:
    from attnbench.machine.facts import compute_capabilities

    datacenter = all(capability == HOPPER or capability[0] == BLACKWELL[0] for capability in compute_capabilities())
    largest = LARGEST_HEAD_DIM["datacenter" if datacenter else "other"]
    for dim in (case.head_dim, case.head_dim_v):
        if dim > largest:
            return f"it takes head dims up to {largest} here, not {dim}"
        if dim % 8:
            return f"it takes head dims that are multiples of 8, not {dim}"
    return None


def _fp8_reason(case: Case) -> str | None:
    """Of cudnn-frontend 1.32, node/sdpa_support_surface.h, FP8 section."""
    from attnbench.machine.facts import compute_capabilities

    if case.dtype != "e4m3":
        return f"its 8-bit kernel is asked for in e4m3 only, not in {case.dtype}"
    if case.scaling not in ("none", "tensor"):
        return f"it takes one descale a tensor, not scaling by {case.scaling}"
    if any(capability < BLACKWELL for capability in compute_capabilities()):
        return "before Blackwell its e4m3 kernel writes e4m3 and masks top-left; an e4m3 case asks for bf16 out"
    dims = (case.head_dim, case.head_dim_v)
    if dims != (192, 128) and (max(dims) > 128 or any(dim % 16 for dim in dims)):
        return f"its e4m3 kernel takes multiples of 16 up to 128, or 192 with 128, not {dims[0]} with {dims[1]}"
    return None


def _frontend_reason() -> str | None:
    from attnbench.machine.facts import module_installed

    if module_installed("cudnn"):
        return None
    return f"torch cannot ask cuDNN for it; nvidia-cudnn-frontend can: {FRONTEND}"


BACKENDS = (Cudnn(),)
