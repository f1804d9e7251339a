"""Our own Hopper FP8 kernels (kernels/fwd_fp8.cu), one backend a schedule: how deep their accumulation is.

They start from the reference quantizer's tensors; V is transposed and permuted in `prepare`. What use runs instead, the
quantize kernel (kernels/quantize.cu), is timed beside them, once it has given the very bits that they start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.backend import Inputs, PrepCall
from attnbench.case import Case
from attnbench.hopper.cases import EightBit
from attnbench.hopper.schedules import DEFAULT_FP8_SCHEDULE, FP8_SCHEDULES

# Whose time `prep_call` is.
QUANTIZER = "our quantize kernel (kernels/quantize.cu)"


@dataclass(frozen=True)
class HopperFp8(EightBit):
    """The backend of one schedule: `hopper_fp8` sums as the tensor core does, `hopper_fp8[two_level]` on two levels."""

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


BACKENDS = tuple(HopperFp8(schedule) for schedule in FP8_SCHEDULES)
