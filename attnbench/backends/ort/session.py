"""A model of one operator, its session, and the tensors that it reads and writes in place."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.machine.libraries import Library

if TYPE_CHECKING:
    from torch import Tensor

LIBRARY = Library("onnxruntime", "onnxruntime", "1.32.0", needs=Library("onnx", "onnx", "1.23.2"))
# What the operators take on a CPU.
DTYPES = ("fp16", "fp32")
# TensorProto's names of torch's types.
ELEMENT_TYPES = {"float16": "FLOAT16", "float32": "FLOAT", "int32": "INT32", "int64": "INT64"}
# The version of ONNX's file format that opset 24 belongs to.
IR_VERSION = 11
OPSET = 24
# As many operators, each with its shapes, keep their session: those of a case's backends and of its probes.
SESSIONS = 32
# The inputs of an operator by place, each with its name; one that is left out has no tensor and the name "".
Values = Sequence[tuple[str, "Tensor | None"]]
Described = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Operator:
    """domain: "" for ONNX's own. inputs, outputs: (name, type, shape) by place."""

    name: str
    domain: str
    attributes: tuple[tuple[str, int | float], ...]
    inputs: Described
    outputs: Described


def operator(name: str, domain: str, attributes: Mapping[str, int | float], given: Values, made: Values) -> Operator:
    return Operator(name, domain, tuple(attributes.items()), _described(given), _described(made))


@functools.lru_cache(maxsize=SESSIONS)
def session(operator: Operator, threads: int) -> Any:
    """An onnxruntime.InferenceSession. One serves all input sets of a shape: each has threads of its own."""
    import onnxruntime

    from attnbench.machine.threads import on_every_cpu

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would go on spinning after a call, and take time from the backend whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    with on_every_cpu():
        return onnxruntime.InferenceSession(_model(operator), options, providers=["CPUExecutionProvider"])


def binding(session: Any, given: Values, made: Values) -> Any:
    """An IOBinding: the session reads and writes these contiguous tensors' own memory. It keeps none of them alive."""
    import numpy

    bound = session.io_binding()
    for bind, values in ((bound.bind_input, given), (bound.bind_output, made)):
        for name, tensor in values:
            if tensor is not None:
                bind(name, "cpu", 0, numpy.dtype(_type_of(tensor)), tuple(tensor.shape), tensor.data_ptr())
    return bound


def _type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _described(values: Values) -> Described:
    return tuple(
        (name, "", ()) if tensor is None else (name, ELEMENT_TYPES[_type_of(tensor)], tuple(tensor.shape))
        for name, tensor in values
    )


def _model(operator: Operator) -> bytes:
    from onnx import TensorProto, helper

    def declared(values: Described) -> list[Any]:
        return [helper.make_tensor_value_info(n, getattr(TensorProto, t), list(s)) for n, t, s in values if n]

    names = [[name for name, *_ in values] for values in (operator.inputs, operator.outputs)]
    node = helper.make_node(operator.name, *names, domain=operator.domain, **dict(operator.attributes))
    graph = helper.make_graph([node], operator.name, declared(operator.inputs), declared(operator.outputs))
    opsets = [helper.make_opsetid("", OPSET)]
    if operator.domain:
        opsets.append(helper.make_opsetid(operator.domain, 1))
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())
