"""The two 8-bit floating-point formats of tensor cores (Micikevicius et al., FP8 Formats for Deep Learning, arXiv
2209.05433, table 1), and rounding to them as hardware converts: to nearest even, saturating (PTX ISA, cvt .satfinite).

P takes the format of q, k and v: FlashAttention-3 converts it to the element type of V, and so does `triton_forward`.
wgmma would take two different ones (PTX ISA, wgmma.mma_async: .atype and .btype); no attention kernel known to us does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Format(NamedTuple):
    """torch_name: of the dtype in torch; largest: finite number; smallest: positive one, subnormal."""

    torch_name: str
    largest: float
    smallest: float
    fraction_bits: int

    @property
    def rounding(self) -> float:
        """Relative rounding error at most, of numbers that are not subnormal."""
        return 2.0 ** -(self.fraction_bits + 1)


FORMATS: Mapping[str, Format] = {
    "e4m3": Format("float8_e4m3fn", 448.0, 2.0**-9, 3),
    "e5m2": Format("float8_e5m2", 57344.0, 2.0**-16, 2),
}


def to_fp8(x: Tensor, dtype: str) -> Tensor:
    """x rounded to `dtype`, saturating, infinity included; NaN stays NaN."""
    import torch

    form = FORMATS[dtype]
    # NOTE: torch's own cast saturates for e4m3 and gives infinities for e5m2.
    return x.clamp(-form.largest, form.largest).to(getattr(torch, form.torch_name))
