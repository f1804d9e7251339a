"""ExecuTorch's own flash attention for CPUs, the torch operator `llama::custom_sdpa`, in bf16.

Its fp16 path is 25 times slower than its bf16 one, so that it is not run. A call writes a line to stderr.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from attnbench.backend import Call, Inputs, LibraryBackend, Outputs, UnsupportedError, beyond
from attnbench.case import Case
from attnbench.machine.facts import installed_version
from attnbench.machine.libraries import Library

GET = "make peers (in a checkout), or pip install --no-deps executorch==1.5.1"
LIBRARY = Library("executorch", "executorch", "1.5.1", get=GET)
# Its operators are compiled against torch's C++ interface, which is one a minor version.
TORCH = "2.13"
OPERATORS = "extension/llm/custom_ops/libcustom_ops_aot_lib.so"
BINDINGS = "executorch.extension.pybindings._C"


class ExecuTorch(LibraryBackend):
    name = "executorch"
    library = LIBRARY

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        torch = installed_version("torch") or ""
        if reason is None and not torch.startswith(f"{TORCH}."):
            return f"executorch {LIBRARY.tested} is compiled for torch {TORCH}, and torch {torch} is installed"
        return reason

    def unsupported(self, case: Case) -> str | None:
        if case.dtype != "bf16":
            return f"only its bf16 path is run here, not {case.dtype}"
        if reason := beyond(case, ("bf16",)):
            return reason
        if case.head_dim != case.head_dim_v:
            return "it takes one head_dim for q, k and v"
        if case.causal and case.seqlen_q > case.seqlen_k:
            return "it has no position for more queries than keys"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        operator = custom_sdpa()
        use_threads(torch.get_num_threads())
        q, k, v = (tensor.contiguous() for tensor in (inputs.q, inputs.k, inputs.v))
        past = case.seqlen_k - case.seqlen_q
        # NOTE: without a causal mask it sees start_pos + seqlen_q keys only; a mask says how many there are.
        mask = None if case.causal or past == 0 else torch.zeros(case.seqlen_q, case.seqlen_k)
        arguments = (q, k, v, past if case.causal else 0, mask, 0.0, case.causal, case.scale)

        def call() -> Outputs:
            return Outputs(operator(*arguments))

        return call


@functools.cache
def custom_sdpa() -> Any:
    """The operator. Raises UnsupportedError where its library does not load."""
    import torch

    from attnbench.machine.threads import on_every_cpu

    spec = importlib.util.find_spec(LIBRARY.module)
    assert spec is not None and spec.submodule_search_locations, "it is installed"
    folder = Path(next(iter(spec.submodule_search_locations)))
    try:
        with on_every_cpu():
            torch.ops.load_library(folder / OPERATORS)
    except OSError as error:
        said = str(error.__cause__ or error).splitlines()[0].replace(f"{folder}/", "")
        raise UnsupportedError(f"its operators do not load: {said}") from None
    return torch.ops.llama.custom_sdpa.default


@functools.lru_cache(maxsize=1)
def use_threads(count: int) -> None:
    """ExecuTorch has a pool of threads of its own, as many as it counts cores."""
    from attnbench.machine.threads import on_every_cpu

    with on_every_cpu():
        importlib.import_module(BINDINGS)._unsafe_reset_threadpool(count)


BACKENDS = (ExecuTorch(),)
