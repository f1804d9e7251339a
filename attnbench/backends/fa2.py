"""FlashAttention-2 as built into torch, called by its own operator so that no other SDPA kernel can run."""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import Case

# torch compiles the kernel for sm_80 and later (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
OLDEST_CAPABILITY = (8, 0)
LARGEST_HEAD_DIM = 256


class FlashAttention2(Base):
    """Causal is bottom-right aligned: torch's `causal_lower_right` calls this operator (torch/nn/attention/bias.py).

    `scaled_dot_product_attention(is_causal=True)` is top-left, and refuses this kernel where the two differ.
    """

    name = "fa2"
    devices = ("cuda",)

    def version(self) -> str:
        from importlib.metadata import version

        return f"torch {version('torch')}, built-in FlashAttention-2"

    def unavailable(self) -> str | None:
        from attnbench.machine.facts import lacks_cuda_torch, lacks_gpu

        return lacks_gpu(OLDEST_CAPABILITY) or lacks_cuda_torch()

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, ("fp16", "bf16")):
            return reason
        if case.head_dim_v != case.head_dim:
            return f"it takes one head_dim for q, k and v, not {case.head_dim} and {case.head_dim_v}"
        if case.head_dim > LARGEST_HEAD_DIM:
            return f"it takes head_dim up to {LARGEST_HEAD_DIM}, not {case.head_dim}"
        if case.head_dim % 8:
            return f"it takes a head_dim that is a multiple of 8, not {case.head_dim}"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        _refuse_replacement()
        q, k, v = (tensor.transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v))
        operator = torch.ops.aten._scaled_dot_product_flash_attention.default
        # NOTE: rows that see no key get lse +inf from FlashAttention-2 (softmax.h, normalize_softmax_lse), not -inf;
        # correcting it would take another kernel, so such cases return none.
        blind_rows = case.causal and case.seqlen_q > case.seqlen_k

        def call() -> Outputs:
            out, lse, *_ = operator(q, k, v, 0.0, case.causal, False, scale=case.scale)
            return Outputs(out.transpose(1, 2), None if blind_rows else lse)

        return call


def _refuse_replacement() -> None:
    """Raises RuntimeError where another FlashAttention has been put behind torch's operator."""
    import torch.nn.attention as attention

    # `current_flash_attention_impl` is newer than the oldest torch that is supported.
    active = getattr(attention, "current_flash_attention_impl", lambda: None)()
    if active is not None:
        raise RuntimeError(
            f'torch\'s FlashAttention operator runs "{active}", not FlashAttention-2; undo it with '
            "torch.nn.attention.restore_flash_attention_impl()"
        )


BACKENDS = (FlashAttention2(),)
