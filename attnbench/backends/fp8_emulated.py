"""The 8-bit pipeline (e4m3, e5m2) of a fused kernel, emulated in fp32: what the scheme costs, without a kernel's bugs.

Starts from the reference quantizer's tensors; key tiles in order, a running maximum, P times p_scale rounded to the
same dtype. Runs anywhere torch does. Its time says nothing about FP8 hardware.
"""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs, beyond
from attnbench.case import FP8_DTYPES, Case


class Fp8Emulated(Base):
    name = "fp8_emulated"

    def unsupported(self, case: Case) -> str | None:
        return beyond(case, FP8_DTYPES, takes=("mask_alignment",))

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        from attnbench.reference.oracle import eager
        from attnbench.reference.rows import choose_rows

        rows = choose_rows(case, "full", inputs.q.device)

        def call() -> Outputs:
            result = eager(case, inputs, rows, self.accumulator)
            return Outputs(result.out.transpose(1, 2).to(inputs.q.dtype), result.lse.float())

        return call


BACKENDS = (Fp8Emulated(),)
