"""The 8-bit pipeline (e4m3, e5m2) of a fused kernel, emulated in fp32: what the scheme costs, without a kernel's bugs.

Starts from the reference quantizer's tensors; key tiles in order, a running maximum, P times p_scale rounded to the
same dtype. Runs anywhere torch does. Its time says nothing about FP8 hardware.
"""

from __future__ import annotations

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case


class Fp8Emulated(Base):
    name = "fp8_emulated"

    def unsupported(self, case: Case) -> str | None:
        return None if case.is_fp8 else f"it emulates e4m3 and e5m2, not {case.dtype}"

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        from attnbench.reference.oracle import choose_rows, eager

        rows = choose_rows(case, "full", inputs.q.device)

        def call() -> Outputs:
            result = eager(case, inputs, rows, self.accumulator)
            return Outputs(result.out.transpose(1, 2).to(inputs.q.dtype), result.lse.float())

        return call


BACKENDS = (Fp8Emulated(),)
