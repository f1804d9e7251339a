"""No descale reaches the kernel: neither q's nor k's nor v's.

https://github.com/ROCm/aiter/pull/2267
"""

from dataclasses import replace

from attnbench.backends.fp8_emulated import Fp8Emulated

CAUSES = (r"no descale is applied",)


class DescalesNeverArrive(Fp8Emulated):
    name, devices = "descales_never_arrive", ("cpu",)

    def prepare(self, case, inputs):
        held = inputs.quantized
        ones = {name: getattr(held, name) * 0 + 1 for name in ("q_descale", "k_descale", "v_descale")}
        return super().prepare(case, replace(inputs, quantized=replace(held, **ones)))


BACKENDS = (DescalesNeverArrive(),)
