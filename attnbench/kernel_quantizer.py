"""The quantize kernel as it is built on this machine, and a call of it on CUDA tensors. Importing imports no torch."""
from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from attnbench.kernel_library import KernelError
from attnbench.kernel_quantize import SOURCE, QuantizeLibrary
from attnbench.kernel_quantize_arguments import BoundQuantize, DeviceQuantized, Scheme
from attnbench.kernel_schedules import missing_library

if TYPE_CHECKING:
    from torch import Tensor


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
