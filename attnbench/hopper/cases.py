"""What a case becomes for our kernels: whether they take it, the C arguments, the call bound to its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, beyond
from attnbench.case import Case
from attnbench.hopper.schedules import FP8_SCHEDULES, UNMASKED_ONLY, KernelBackend

if TYPE_CHECKING:
    from attnbench.hopper.forward import BoundForward
    from attnbench.hopper.library import ForwardArgs, Variant

# Scalings whose descales the kernels take: one for everything, a head, or a block of tokens.
SCALINGS = ("none", "tensor", "head", "block")
# Copies of V that exist at once while it is permuted: padded, gathered, and the result.
V_COPIES = 3


@dataclass(frozen=True)
class SixteenBit(KernelBackend):
    """A schedule of kernels/fwd_*.cu for fp16 and bf16."""

    def case_reason(self, case: Case) -> str | None:
        if reason := beyond(case, ("fp16", "bf16")):
            return reason
        if case.causal and self.schedule in UNMASKED_ONLY:
            return "two CTAs share their keys, and under a causal mask neighbouring query tiles see different numbers"
        return None if case.head_dim_v == case.head_dim else "it takes one head_dim for q, k and v"

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        from attnbench.hopper.forward import case_args

        return case_args(variant, case)

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        from attnbench.hopper.forward import BoundForward

        library, variant = self.kernel().library, self.variant(case)
        assert variant is not None, "`unsupported` refuses a case without one"
        return BoundForward.of(library, variant, inputs.q, inputs.k, inputs.v, case.causal, case.scale)


@dataclass(frozen=True)
class EightBit(KernelBackend):
    """A schedule of kernels/fwd_fp8.cu, from the reference quantizer's tensors; V is permuted in `prepare`."""

    copies_inputs = True

    @property
    def accumulator(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return FP8_SCHEDULES[self.schedule].accumulator

    def case_reason(self, case: Case) -> str | None:
        if reason := beyond(case, ("e4m3",)):
            return reason
        if case.scaling not in SCALINGS:
            return f"it takes one descale a head or a block of tokens, not scaling by {case.scaling}"
        return None if case.head_dim_v == case.head_dim else "it takes one head_dim for q, k and v"

    def extra_bytes(self, case: Case) -> int:
        """V^T and its making, and what the quantize kernel writes; descales and workspace are a thousandth of that."""
        from attnbench.hopper.forward import padded_tokens

        values = case.num_heads_kv * case.head_dim_v * padded_tokens(case.seqlen_k)
        queries_and_keys = (case.seqlen_q * case.num_heads + case.seqlen_k * case.num_heads_kv) * case.head_dim
        return case.batch * ((V_COPIES + 1) * values + queries_and_keys)

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        from attnbench.hopper.forward import fp8_case_args

        return fp8_case_args(variant, case)

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        from attnbench.hopper.forward import bind, reference_operands

        assert inputs.quantized is not None, "an e4m3 case's inputs hold the reference quantizer's"
        library, operands = self.kernel().library, reference_operands(case, inputs.quantized)
        variant = self.variant(case)
        assert variant is not None, "`unsupported` refuses a case without one"
        return bind(library, variant, operands, case.causal, case.scale, case.p_scale, inputs.q.dtype)
