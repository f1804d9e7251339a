"""One guarded call of a backend, whose outputs keep the contract."""

from __future__ import annotations

import time

from attnbench.backend import Base, Inputs, Outputs, as_returned
from attnbench.case import Case
from attnbench.contract import check_contract


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
    outputs = as_returned(outputs)
    if inputs.q.is_cuda:
        torch.cuda.synchronize()
    return outputs, time.perf_counter() - started
