"""The quantize kernel as it is built on this machine, and a call of it on CUDA tensors. Importing imports no torch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from attnbench.kernel_library import KernelError
from attnbench.kernel_quantize import SOURCE, QuantizeLibrary, transpose_values
from attnbench.kernel_quantize_arguments import BoundQuantize, DeviceQuantized, Scheme
from attnbench.kernel_schedules import missing_library

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.backend import Inputs, Quantized
    from attnbench.case import Case
    from attnbench.kernel_build import Build


def missing() -> str | None:
    """Why the built library cannot be used, with the way out; None when it is there and fresh."""
    return missing_library(SOURCE)


@functools.cache
def built_library() -> QuantizeLibrary:
    """The library, loaded once per process. Raises KernelError where it is `missing`."""
    from attnbench.kernel_build import library_path

    reason = missing()
    if reason is not None:
        raise KernelError(reason)
    return QuantizeLibrary(library_path(SOURCE))


def built() -> Build:
    """The record of its build. Raises KernelError where the library is `missing`."""
    from attnbench.kernel_build import library_path, read_build

    reason = missing()
    build = None if reason else read_build(library_path(SOURCE))
    if build is None:
        raise KernelError(reason or f"the build of kernels/{SOURCE}.cu was removed meanwhile; build it again")
    return build


def version() -> str:
    """Which binary it is: hash and compiler. Raises KernelError where it is `missing`."""
    build = built()
    return f"{build.name} {build.digest} ({build.compiler})"


def bind(inputs: Inputs, case: Case) -> BoundQuantize:
    """The quantization of a case's originals by the built library, ready to launch. Raises KernelError."""
    return BoundQuantize.of(built_library(), inputs.q, inputs.k, inputs.v, Scheme.of(case))


def differences(made: DeviceQuantized, quantized: Quantized) -> str:
    """Where the kernel's bits are not the reference quantizer's ("q_descale in 3 of 8 values"), "" where all are."""
    import torch

    names = ("q", "k", "q_descale", "k_descale", "v_descale")
    pairs = [(name, getattr(made, name), getattr(quantized, name)) for name in names]
    found = []
    for name, one, other in (*pairs, ("v", made.v_transposed, transpose_values(quantized.v))):
        width = torch.int32 if one.dtype == torch.float32 else torch.uint8
        wrong = int((one.view(width) != other.view(width)).sum())
        if wrong:
            found.append(f"{name} in {wrong} of {one.numel()} values")
    return ", ".join(found)


def quantize_on_device(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """Quantizes CUDA tensors on the current stream of their device, and waits for nothing; see `BoundQuantize.of`."""
    return quantize_by(built_library(), q, k, v, scheme)


def quantize_by(library: QuantizeLibrary, q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """The same by a given library: an emulated one takes CPU tensors."""
    import torch

    bound = BoundQuantize.of(library, q, k, v, scheme)
    if not q.is_cuda:
        return bound.launch()
    with torch.cuda.device(q.device):
        return bound.launch(torch.cuda.current_stream().cuda_stream)
