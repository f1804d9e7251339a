"""One guarded call of a backend, and the contract its outputs must keep before anybody judges their numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from attnbench.backend import Base, ContractError, Inputs, Outputs
from attnbench.case import Case


def guarded_call(case: Case, backend: Base, inputs: Inputs) -> tuple[Outputs, float]:
    """One call whose outputs have the right type, shape, dtype and device; and how long preparing and calling took,
    compilation and autotuning included. Raises ContractError.

    On CUDA the outputs are copied on the current stream at once: a kernel on another stream that nobody waits for
    shows.
    """
    import torch

    started = time.perf_counter()
    outputs = backend.prepare(case, inputs)()
    check_contract(case, inputs, outputs)
    outputs = replace(outputs, out=outputs.out.clone(), lse=None if outputs.lse is None else outputs.lse.clone())
    if inputs.q.is_cuda:
        torch.cuda.synchronize()
    return outputs, time.perf_counter() - started


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
        if tuple(tensor.shape) != shape:
            raise ContractError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
        if tensor.dtype != dtype:
            raise ContractError(f"{name} has dtype {tensor.dtype}, not {dtype}")
        if tensor.device != inputs.q.device:
            raise ContractError(f"{name} is on {tensor.device}, not on {inputs.q.device}")
