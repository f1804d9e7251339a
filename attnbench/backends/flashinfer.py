"""FlashInfer's ragged batch prefill, an optional peer: `fa3` kernels on Hopper, `fa2` kernels elsewhere.

Every sequence of the batch has the same length here. Causal is bottom-right aligned. Its LSE is in log2 and
token-major; turning it into ours would take another kernel, so none is asked for. `prepare` compiles it with nvcc.
"""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

HOPPER = (9, 0)
OLDEST_CAPABILITY = (8, 0)
# The (head_dim, head_dim_v) pairs that both kernel families instantiate.
HEAD_DIMS = {(64, 64), (128, 128), (256, 256), (192, 128)}
# What FlashInfer's own documentation recommends for the split-KV partial results.
WORKSPACE_BYTES = 128 * 2**20


class FlashInfer(Base):
    name = "flashinfer"
    devices = ("cuda",)

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        return f"flashinfer {package_version('flashinfer-python')}, {_kernels()} kernels"

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import lacks_cuda_torch, lacks_gpu, module_installed

        reason = lacks_gpu(OLDEST_CAPABILITY) or lacks_cuda_torch()
        if reason is None and not module_installed("flashinfer"):
            return "FlashInfer is not installed; get it with: pip install flashinfer-python"
        return reason

    def unsupported(self, case: Case) -> str | None:
        if case.is_fp8:
            return "the ragged prefill takes one scalar descale a call and P unscaled; only fp16 and bf16 are run here"
        if reason := beyond(case, ("fp16", "bf16")):
            return reason
        if (case.head_dim, case.head_dim_v) not in HEAD_DIMS:
            return f"it has no kernel for head_dim {case.head_dim} with head_dim_v {case.head_dim_v}"
        return None

    def extra_bytes(self, case: Case) -> int:
        return WORKSPACE_BYTES

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch
        from flashinfer.prefill import BatchPrefillWithRaggedKVCacheWrapper

        device = inputs.q.device
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        wrapper = BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=_kernels())
        starts = torch.arange(case.batch + 1, dtype=torch.int32, device=device)
        wrapper.plan(
            starts * case.seqlen_q, starts * case.seqlen_k, case.num_heads, case.num_heads_kv, case.head_dim,
            head_dim_vo=case.head_dim_v, causal=case.causal, sm_scale=case.scale,
            q_data_type=inputs.q.dtype, kv_data_type=inputs.k.dtype,
        )  # fmt: skip
        q, k, v = (tensor.flatten(0, 1) for tensor in (inputs.q, inputs.k, inputs.v))

        def call() -> Outputs:
            return Outputs(wrapper.run(q, k, v).unflatten(0, (case.batch, case.seqlen_q)))

        return call


def _kernels() -> str:
    """The kernel family that FlashInfer is told to use, so that it cannot choose another."""
    from attnbench.machine.facts import compute_capabilities

    return "fa3" if compute_capabilities() == {HOPPER} else "fa2"


BACKENDS = (FlashInfer(),)
