"""k's and v's descales are read as one number each, that of the first head.

https://github.com/sgl-project/sgl-kernel-xpu/pull/252
"""

from dataclasses import replace

from attnbench.backends.fp8_emulated import Fp8Emulated

CAUSES = (r"k_descale and v_descale of the first .* are taken for all",)


class OneDescaleForAll(Fp8Emulated):
    name, devices = "one_descale_for_all", ("cpu",)

    def prepare(self, case, inputs):
        held = inputs.quantized
        first = {
            name: getattr(held, name).flatten()[0].expand_as(getattr(held, name)) for name in ("k_descale", "v_descale")
        }
        return super().prepare(case, replace(inputs, quantized=replace(held, **first)))


BACKENDS = (OneDescaleForAll(),)
