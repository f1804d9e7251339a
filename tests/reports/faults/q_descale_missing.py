"""q's descale is left out, k's and v's are applied.

https://github.com/vllm-project/vllm/pull/42916
"""

from dataclasses import replace

from attnbench.backends.fp8_emulated import Fp8Emulated

CAUSES = (r"q_descale is not applied",)


class QDescaleMissing(Fp8Emulated):
    name, devices = "q_descale_missing", ("cpu",)

    def prepare(self, case, inputs):
        held = inputs.quantized
        return super().prepare(case, replace(inputs, quantized=replace(held, q_descale=held.q_descale * 0 + 1)))


BACKENDS = (QDescaleMissing(),)
