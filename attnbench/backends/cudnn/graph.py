"""cuDNN attention graphs through nvidia-cudnn-frontend: description, plan, workspace, execution.

`describe` only writes the graph down and needs no GPU; `plan` asks the cuDNN library for an engine and compiles it.
Reference: cudnn-frontend, docs/operations/Attention.md (SDPA, SDPA FP8). This module imports `cudnn`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cudnn

from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


# Plans that Python engines of the frontend offer beside the cuDNN library's carry this in their names.
PYTHON_ENGINES = "sdpa_fwd"
FP8_INPUT_SCALES = ("q_descale", "k_descale", "v_descale", "s_descale", "s_scale", "o_scale")
FP8_MAXIMA = ("s_amax", "o_amax")
# A plan takes seconds and depends on the case alone; every input set of a case shares it.
PLANS_KEPT = 8


@dataclass(frozen=True)
class Graph:
    """A described graph and its tensors by name: q, k, v, out, lse, and for e4m3 the scales and maxima.

    handle: the cuDNN handle that it runs with, None where it is only described.
    """

    graph: Any
    tensors: Mapping[str, Any]
    handle: Any = None


@functools.lru_cache(maxsize=PLANS_KEPT)
def planned(case: Case) -> Graph:
    """The case's graph, ready to execute on the current GPU."""
    described = describe(case, handle=cudnn.create_handle())
    plan(described)
    return described


def describe(case: Case, handle: Any = None, **context: Any) -> Graph:
    """The forward graph of a case, causal bottom-right where lengths differ, out in bf16 for e4m3.

    context goes to `cudnn.pygraph`, such as a device description for planning without a GPU.
    """
    types = cudnn.data_type
    element = {"fp16": types.HALF, "bf16": types.BFLOAT16, "e4m3": types.FP8_E4M3}[case.dtype]
    precision = {"intermediate_data_type": types.FLOAT, "compute_data_type": types.FLOAT}
    graph = cudnn.pygraph(io_data_type=element, handle=handle, **precision, **context)
    shapes = {
        "q": (case.seqlen_q, case.num_heads, case.head_dim),
        "k": (case.seqlen_k, case.num_heads_kv, case.head_dim),
        "v": (case.seqlen_k, case.num_heads_kv, case.head_dim_v),
    }
    tensors = {name: graph.tensor(**_layout(case.batch, *shape), name=name) for name, shape in shapes.items()}
    options = {"attn_scale": case.scale, "generate_stats": True, "name": "attention", **_mask(case)}
    if case.is_fp8:
        for name in FP8_INPUT_SCALES:
            tensors[name] = graph.tensor(dim=[1] * 4, stride=[1] * 4, data_type=types.FLOAT, name=name)
        out, lse, *maxima = graph.sdpa_fp8(*tensors.values(), **options)
        for name, tensor in zip(FP8_MAXIMA, maxima, strict=True):
            tensors[name] = tensor.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(types.FLOAT)
    else:
        out, lse = graph.sdpa(*tensors.values(), **options)
    layout = _layout(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v)
    out.set_output(True).set_dim(layout["dim"]).set_stride(layout["stride"])
    out.set_data_type(types.BFLOAT16 if case.is_fp8 else element)
    rows = case.num_heads * case.seqlen_q
    lse.set_output(True).set_dim([case.batch, case.num_heads, case.seqlen_q, 1]).set_stride([rows, case.seqlen_q, 1, 1])
    lse.set_data_type(types.FLOAT)
    return Graph(graph, {**tensors, "out": out, "lse": lse}, handle)


def plan(described: Graph) -> None:
    """Has the cuDNN library choose and compile an engine.

    Raises cudnn.cudnnGraphNotSupportedError when it has none, RuntimeError when the engine is not the library's own.
    """
    graph = described.graph
    graph.validate()
    graph.build_operation_graph()
    graph.deselect_engines([PYTHON_ENGINES])
    graph.create_execution_plans([cudnn.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    engine = getattr(graph, "selected_engine", None)
    if engine is not None:
        raise RuntimeError(f"the frontend chose its own engine {engine.name}, not the cuDNN library's")


def executor(described: Graph, buffers: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], None]:
    """The call that runs a planned graph on torch's current stream and writes (out, lse). Allocates its workspace."""
    import torch

    device = buffers["q"].device
    workspace = torch.empty(described.graph.get_workspace_size(), dtype=torch.uint8, device=device)
    fixed = {described.tensors[name]: buffer for name, buffer in buffers.items()}

    def execute(out: Tensor, lse: Tensor) -> None:
        cudnn.set_stream(handle=described.handle, stream=torch.cuda.current_stream(device).cuda_stream)
        written = {described.tensors["out"]: out, described.tensors["lse"]: lse}
        described.graph.execute({**fixed, **written}, workspace, handle=described.handle)

    return execute


def fp8_buffers(case: Case, descales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scale and maximum buffers by the graph's names. descales: q_descale, k_descale, v_descale, one value each.

    P is multiplied by p_scale before it is rounded, and the product divided by it again; out is not scaled.
    """
    like = descales["q_descale"].new_ones((1, 1, 1, 1))
    scales = {name: value.reshape(1, 1, 1, 1) for name, value in descales.items()}
    scales |= {"s_descale": like / case.p_scale, "s_scale": like * case.p_scale, "o_scale": like.clone()}
    return {**scales, **{name: like.clone() for name in FP8_MAXIMA}}


def _layout(batch: int, seqlen: int, heads: int, dim: int) -> dict[str, list[int]]:
    """cuDNN's order is (batch, heads, seqlen, dim); the strides say that memory is (batch, seqlen, heads, dim)."""
    return {"dim": [batch, heads, seqlen, dim], "stride": [seqlen * heads * dim, dim, heads * dim, 1]}


def _mask(case: Case) -> dict[str, bool]:
    if not case.causal:
        return {}
    return {"use_causal_mask" if case.seqlen_q == case.seqlen_k else "use_causal_mask_bottom_right": True}
