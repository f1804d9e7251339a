"""OpenVINO's CPU plugin: the operator ScaledDotProductAttention of opset 13, a model of one node with static shapes.

Its own causal mask is top-left aligned; where that differs it gets a boolean mask. Without `INFERENCE_PRECISION_HINT`
the plugin would compute fp32 models in bf16 on CPUs that have instructions for it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from attnbench.backend import Call, Inputs, LibraryBackend, Outputs, beyond
from attnbench.case import Case
from attnbench.machine.libraries import Library

if TYPE_CHECKING:
    from torch import Tensor

LIBRARY = Library("openvino", "openvino", "2026.4.1")
# OpenVINO's names of our types.
ELEMENT_TYPES = {"fp16": "f16", "bf16": "bf16", "fp32": "f32"}
# As many models, each with its shapes, stay compiled: those of a case and of its probes.
MODELS = 32


class OpenVino(LibraryBackend):
    name = "openvino"
    library = LIBRARY
    keeps_memory = True

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, ELEMENT_TYPES, takes=("mask_alignment",)):
            return reason
        if case.causal and case.diagonal < 0:
            return "a row that sees no key is NaN there: causal needs seqlen_q <= seqlen_k"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        tensors = [tensor.contiguous() for tensor in (inputs.q, inputs.k, inputs.v)]
        diagonal = case.diagonal if case.causal and case.diagonal < case.seqlen_k - 1 else None
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        compiled = compiled_model(shapes, case.dtype, diagonal, case.scale, torch.get_num_threads())
        out = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v, dtype=inputs.q.dtype)
        request = compiled.create_infer_request()
        for index, tensor in enumerate(tensors):
            request.set_input_tensor(index, _shared(tensor, case.dtype))
        request.set_output_tensor(0, _shared(out, case.dtype))
        start, wait, outputs = request.start_async, request.wait, Outputs(out)

        def call(held: list[Tensor] = tensors) -> Outputs:
            start()
            wait()  # NOTE: `infer` would copy the output into an array of its own
            return outputs

        return call


@functools.lru_cache(maxsize=MODELS)
def compiled_model(
    shapes: tuple[tuple[int, ...], ...], dtype: str, diagonal: int | None, scale: float, threads: int
) -> Any:
    """The model with q, k and v of these shapes in our layout, compiled. It has threads of its own.

    diagonal: query i sees key j when j <= i + diagonal; None: every key.
    """
    import numpy
    import openvino
    from openvino import opset13

    from attnbench.machine.threads import on_every_cpu

    kind = getattr(openvino.Type, ELEMENT_TYPES[dtype])
    parameters = [opset13.parameter(list(shape), kind) for shape in shapes]
    order = opset13.constant([0, 2, 1, 3])
    heads = [opset13.transpose(parameter, order) for parameter in parameters]
    ratio = shapes[0][2] // shapes[1][2]
    if ratio > 1:
        heads[1:] = [_repeated(one, shape, ratio) for one, shape in zip(heads[1:], shapes[1:])]
    mask = opset13.constant(0.0, dtype=kind)
    if diagonal:
        mask = opset13.constant(numpy.tri(shapes[0][1], shapes[1][1], diagonal, dtype=bool))
    # NOTE: it has q's type, rounded to nearest here; left out, the plugin's own default is further off in bf16.
    factor = opset13.constant(scale, dtype=kind)
    attended = opset13.scaled_dot_product_attention(*heads, mask, factor, causal=diagonal == 0)
    model = openvino.Model([opset13.result(opset13.transpose(attended, order))], parameters, "attention")
    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": ELEMENT_TYPES[dtype],
    }  # fmt: skip
    with on_every_cpu():  # the plugin counts, once, the CPUs that it may use, and takes no more threads
        return openvino.Core().compile_model(model, "CPU", settings)


def _repeated(heads: Any, shape: tuple[int, ...], ratio: int) -> Any:
    """(batch, heads_kv, seqlen, d) with each head `ratio` times in a row, which the plugin does without copying."""
    from openvino import opset13

    batch, seqlen, count, dim = shape
    apart = opset13.reshape(heads, opset13.constant([batch, count, 1, seqlen, dim]), False)
    each = opset13.broadcast(apart, opset13.constant([batch, count, ratio, seqlen, dim]))
    return opset13.reshape(each, opset13.constant([batch, count * ratio, seqlen, dim]), False)


def _shared(tensor: Tensor, dtype: str) -> Any:
    """An openvino.Tensor on the same memory. numpy has no bf16, so that 16 bits go as int16, with their type beside."""
    import openvino
    import torch

    bits = tensor if dtype == "fp32" else tensor.view(torch.int16)
    return openvino.Tensor(
        bits.numpy(), openvino.Shape(list(tensor.shape)), getattr(openvino.Type, ELEMENT_TYPES[dtype])
    )


BACKENDS = (OpenVino(),)
