"""Our own Hopper FP8 kernels (kernels/fwd_fp8.cu), one backend a schedule: how deep their accumulation is.

They start from the reference quantizer's tensors; V is transposed and permuted in `prepare`. What use runs instead, the
quantize kernel (kernels/quantize.cu), is timed beside them, once it has given the very bits that they start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.backend import Inputs, PrepCall
from attnbench.case import Case
from attnbench.hopper.schedules import DEFAULT_FP8_SCHEDULE, FP8_SCHEDULES, KernelBackend, built_kernel

if TYPE_CHECKING:
    from attnbench.hopper.forward import BoundForward
    from attnbench.hopper.library import ForwardArgs, Variant

# Scalings whose descales the kernels take: one for everything, a head, or a block of tokens.
SCALINGS = ("none", "tensor", "head", "block")
# Copies of V that exist at once while it is permuted: padded, gathered, and the result.
V_COPIES = 3
# Whose time `prep_call` is.
QUANTIZER = "our quantize kernel (kernels/quantize.cu)"


@dataclass(frozen=True)
class HopperFp8(KernelBackend):
    """The backend of one schedule: `hopper_fp8` sums as the tensor core does, `hopper_fp8[two_level]` on two levels."""

    @property
    def accumulator(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return FP8_SCHEDULES[self.schedule].accumulator

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        default = self.schedule == DEFAULT_FP8_SCHEDULE
        return "hopper_fp8" if default else f"hopper_fp8[{self.schedule.removeprefix('fp8_')}]"

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        if reason is None:
            from attnbench.hopper.quantizer import missing

            reason = missing()
        return reason

    def case_reason(self, case: Case) -> str | None:
        if case.dtype != "e4m3":
            return f"it takes e4m3, not {case.dtype}"
        if case.scaling not in SCALINGS:
            return f"it takes one descale a head or a block of tokens, not scaling by {case.scaling}"
        return None if case.head_dim_v == case.head_dim else "it takes one head_dim for q, k and v"

    def extra_bytes(self, case: Case) -> int:
        """V^T and its making, and what the quantize kernel writes; descales and workspace are a thousandth of that."""
        from attnbench.hopper.forward import padded_tokens

        values = case.num_heads_kv * case.head_dim_v * padded_tokens(case.seqlen_k)
        queries_and_keys = (case.seqlen_q * case.num_heads + case.seqlen_k * case.num_heads_kv) * case.head_dim
        return case.batch * ((V_COPIES + 1) * values + queries_and_keys)

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        from attnbench.hopper.quantizer import version

        facts = super().kernel_facts(case)
        return None if facts is None else {**facts, "quantizer": version()}

    def prep_call(self, case: Case, inputs: Inputs) -> PrepCall:
        """Quantization of the originals by our kernel. Raises KernelError where its bits are not the reference's."""
        import torch

        from attnbench.hopper import quantizer
        from attnbench.hopper.library import KernelError

        bound = quantizer.bind(inputs, case)
        assert inputs.quantized is not None, "an e4m3 case's inputs hold the reference quantizer's"
        wrong = quantizer.differences(bound.launch(torch.cuda.current_stream().cuda_stream), inputs.quantized)
        if wrong:
            raise KernelError(f"the quantize kernel's bits are not the reference quantizer's: {wrong}")
        return PrepCall(QUANTIZER, lambda: bound.launch(torch.cuda.current_stream().cuda_stream))

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        from attnbench.hopper.forward import fp8_case_args

        return fp8_case_args(variant, case)

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        from attnbench.hopper.forward import bind, reference_operands

        assert inputs.quantized is not None, "an e4m3 case's inputs hold the reference quantizer's"
        library, operands = built_kernel(self.schedule).library, reference_operands(case, inputs.quantized)
        variant = self.variant(case)
        assert variant is not None, "`unsupported` refuses a case without one"
        return bind(library, variant, operands, case.causal, case.scale, case.p_scale, inputs.q.dtype)


BACKENDS = tuple(HopperFp8(schedule) for schedule in FP8_SCHEDULES)
