"""The contract that a call's outputs keep before anybody judges their numbers: types, shapes, memory of their own, and
every number written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attnbench.backend import ContractError, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


def check_contract(case: Case, inputs: Inputs, outputs: Any) -> None:
    """Raises ContractError unless `outputs` are Outputs of the types, shapes, dtypes and device that the case wants."""
    import torch

    if not isinstance(outputs, Outputs):
        raise ContractError(f"the call returned {type(outputs).__name__}, not attnbench.Outputs")
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "out": ((case.batch, case.seqlen_q, case.num_heads, case.head_dim_v), inputs.q.dtype)
    }
    if outputs.lse is not None:
        wanted["lse"] = ((case.batch, case.num_heads, case.seqlen_q), torch.float32)
    for name, (shape, dtype) in wanted.items():
        tensor = getattr(outputs, name)
        if not isinstance(tensor, torch.Tensor):
            raise ContractError(f"{name} is {type(tensor).__name__}, not a tensor")
        if type(tensor) is not torch.Tensor:  # which may compute when somebody reads it
            raise ContractError(f"{name} is {type(tensor).__name__}, not a plain torch.Tensor")
        if tuple(tensor.shape) != shape:
            raise ContractError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
        if tensor.dtype != dtype:
            raise ContractError(f"{name} has dtype {tensor.dtype}, not {dtype}")
        if tensor.device != inputs.q.device:
            raise ContractError(f"{name} is on {tensor.device}, not on {inputs.q.device}")
        _check_memory(name, tensor, inputs)


def _check_memory(name: str, tensor: Tensor, inputs: Inputs) -> None:
    """Raises ContractError unless every number has a place of its own, none of them in an input's memory."""
    import torch

    if tensor.layout != torch.strided:
        raise ContractError(f"{name} has layout {tensor.layout}, not torch.strided")
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
        raise ContractError(f"{name} has a stride of 0: several of its numbers are one; give each a place of its own")
    held = tensor.untyped_storage()
    for given, one in zip(("q", "k", "v"), (inputs.q, inputs.k, inputs.v)):
        if held.nbytes() and held.data_ptr() == one.untyped_storage().data_ptr():
            raise ContractError(f"{name} lies in the memory of {given}; write it into memory of its own")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch's deterministic mode with uninitialized memory filled with NaN: an output never written shows."""
    import torch

    # NOTE: not use_deterministic_algorithms, which imports all of torch's compiler for this: seconds in every process.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]  # set on the module's class
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")
