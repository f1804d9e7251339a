"""Arrays of jax from tensors of torch and back, by DLPack: on one device, without a copy where that can be.

A plugin may import it; its functions work with and without an interpreter, on CPUs and on GPUs.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    from torch import Tensor


def to_jax(tensor: Tensor) -> jax.Array:
    """The same values, type (bf16, fp16, fp32, integers) and device. It may share memory with the tensor."""
    import jax

    with _where_it_is():
        return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def to_torch(array: jax.Array) -> Tensor:
    """The same values, type and device, once they are computed. It may share memory with the array: write a copy."""
    import torch

    with _where_it_is():
        return torch.utils.dlpack.from_dlpack(array)


def on_jax_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of jax arrays as one of torch tensors; other arguments stay as they are, a tuple of results is
    converted each.

    With `jax.jit(function, static_argnames=("causal", "softmax_scale"))` a shape is compiled once.
    """

    @functools.wraps(function)
    def of_tensors(*given: Any, **settings: Any) -> Any:
        import torch

        arrays = (to_jax(value) if isinstance(value, torch.Tensor) else value for value in given)
        return torch_results(function(*arrays, **settings))

    return of_tensors


def torch_results(results: Any) -> Any:
    """What a kernel's wrapper returned, arrays of jax as tensors of torch; anything else as it is."""
    if isinstance(results, (tuple, list)):
        return tuple(torch_results(result) for result in results)
    return to_torch(results) if is_jax_array(results) else results


def is_jax_array(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def is_jitted(function: Any) -> bool:
    """Whether `jax.jit` made it: then it takes arrays of jax, and nothing else."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(function, jax.stages.Wrapped)


@contextlib.contextmanager
def _where_it_is() -> Iterator[None]:
    """NOTE: in Triton's interpreter tensors on the CPU say that they are on a GPU, to torch functions only."""
    import torch

    with torch._C.DisableTorchFunction():
        yield
