"""A graph of one operator on the memory of torch's tensors, and the call that computes it."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attnbench.backend import Call, Inputs, Outputs
from attnbench.backends.ggml.library import SUCCESS, TYPES, InitParams
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor

# ggml-impl.h, TENSOR_ALIGNMENT: a buffer that begins elsewhere ends the process.
ALIGNMENT = 32
# Descriptions of a dozen tensors and of a graph take about 0.1 MiB of it.
CONTEXT_BYTES = 1 << 20
# ggml permutes axes by where each one goes; its first axis is our last: (d, heads, seqlen, batch) to
# (d, seqlen, heads, batch).
HEADS_OUTSIDE = (0, 2, 1, 3)
NO_BIAS = NO_SOFTCAP = 0.0


def attention_call(case: Case, inputs: Inputs, libraries: Mapping[str, ctypes.CDLL]) -> Call:
    import torch

    graph = _Graph(libraries["base"])
    q, k, v = (_aligned(tensor) for tensor in (inputs.q.float(), inputs.k, inputs.v))
    out = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v)
    mask = _mask(case)
    operands = [*(graph.heads(tensor) for tensor in (q, k, v)), None if mask is None else graph.tensor(mask)]
    compute = graph.attention(operands, case.scale, out, _device(libraries["cpu"], torch.get_num_threads()))
    dtype = inputs.q.dtype
    fixed = Outputs(out) if out.dtype == dtype else None

    def call(held: tuple[Tensor | None, ...] = (q, k, v, mask, out)) -> Outputs:
        compute()
        return fixed or Outputs(out.to(dtype))

    weakref.finalize(call, graph.free)
    return call


@functools.cache
def _device(cpu: ctypes.CDLL, threads: int) -> int:
    """ggml's CPU backend, one a number of threads: it holds the memory that calls work in."""
    made: int = cpu.ggml_backend_cpu_init()
    cpu.ggml_backend_cpu_set_n_threads(made, threads)
    return made


class _Graph:
    """Tensors of ggml's that lie in torch's memory."""

    def __init__(self, base: ctypes.CDLL):
        self._base = base
        self._context = base.ggml_init(InitParams(CONTEXT_BYTES, None, True))
        self._buffers: list[int] = []

    def tensor(self, source: Tensor) -> int:
        """Of a contiguous tensor of four axes."""
        kind = TYPES[_name(source)]
        made: int = self._base.ggml_new_tensor_4d(self._context, kind, *reversed(source.shape))
        return self._placed(made, source)

    def heads(self, source: Tensor) -> int:
        """(batch, seqlen, heads, d) with the heads outside, as a view."""
        made: int = self._base.ggml_permute(self._context, self.tensor(source), *HEADS_OUTSIDE)
        return made

    def attention(self, operands: Sequence[int | None], scale: float, out: Tensor, device: int) -> Callable[[], None]:
        """What computes it of q, k, v and a mask into `out`, fp32 (batch, seqlen_q, heads, d)."""
        base = self._base
        node = base.ggml_flash_attn_ext(self._context, *operands, scale, NO_BIAS, NO_SOFTCAP)
        self._placed(node, out)
        graph = base.ggml_new_graph(self._context)
        base.ggml_build_forward_expand(graph, node)
        run = base.ggml_backend_graph_compute

        def compute() -> None:
            status = run(device, graph)
            if status != SUCCESS:
                raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

        return compute

    def free(self) -> None:
        for buffer in self._buffers:
            self._base.ggml_backend_buffer_free(buffer)
        self._base.ggml_free(self._context)

    def _placed(self, tensor: int, memory: Tensor) -> int:
        buffer = self._base.ggml_backend_cpu_buffer_from_ptr(memory.data_ptr(), memory.nbytes)
        self._buffers.append(buffer)
        status = self._base.ggml_backend_tensor_alloc(buffer, tensor, memory.data_ptr())
        if status != SUCCESS:
            raise RuntimeError(f"ggml_backend_tensor_alloc returned {status}")
        return tensor


def _name(tensor: Tensor) -> str:
    import torch

    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[tensor.dtype]


def _aligned(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _mask(case: Case) -> Tensor | None:
    """fp16 (1, 1, seqlen_q, seqlen_k), 0 or -inf, added to the scaled scores; None where nothing is hidden."""
    import torch

    if not case.causal or case.diagonal >= case.seqlen_k - 1:
        return None
    hidden = torch.ones(case.seqlen_q, case.seqlen_k, dtype=torch.bool).triu(case.diagonal + 1)
    mask = torch.zeros(1, 1, case.seqlen_q, case.seqlen_k, dtype=torch.float16)
    return mask.masked_fill_(hidden, float("-inf"))
