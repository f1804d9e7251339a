"""The cuDNN graph: written with a fake frontend that executes it in fp64, and with the real one where it is installed.

Executing the real graph needs an NVIDIA GPU; see test_on_gpu.py.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from plain_attention import attention, relative_rmse

from attnbench.backends import builtin, cudnn
from attnbench.case import Case
from attnbench.machine.facts import module_installed
from attnbench.reference.inputs import make_inputs
from attnbench.reference.quantize import dequantize


class FakeTensor:
    def __init__(self, dim=None, stride=None, data_type=None, name=""):
        self.dim, self.stride, self.data_type, self.name, self.output = dim, stride, data_type, name, False

    def _set(self, **values):
        self.__dict__.update(values)
        return self

    def set_output(self, output):
        return self._set(output=output)

    def set_dim(self, dim):
        return self._set(dim=dim)

    def set_stride(self, stride):
        return self._set(stride=stride)

    def set_data_type(self, data_type):
        return self._set(data_type=data_type)


class FakeGraph:
    """Executes the described attention on the buffers it is given, and checks each buffer against its description."""

    def __init__(self, handle=None, **context):
        self.handle, self.context, self.steps, self.barred = handle, context, [], []
        self.selected_engine = None

    def tensor(self, **description):
        return FakeTensor(**description)

    def sdpa(self, q, k, v, **options):
        self.inputs, self.options = (q, k, v), options
        self.outputs = FakeTensor(name="out"), FakeTensor(name="lse")
        return self.outputs

    def sdpa_fp8(self, q, k, v, *scales, **options):
        self.inputs, self.options = (q, k, v, *scales), options
        self.outputs = tuple(FakeTensor(name=name) for name in ("out", "lse", "s_amax", "o_amax"))
        return self.outputs

    def deselect_engines(self, names):
        self.barred += names

    def __getattr__(self, name):
        if name not in ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans"):
            raise AttributeError(name)
        return lambda *arguments: self.steps.append(name)

    def get_workspace_size(self):
        return 64

    def execute(self, bound, workspace, handle):
        assert handle is self.handle and workspace.numel() == 64
        for described, buffer in bound.items():
            assert list(buffer.shape) == described.dim and list(buffer.stride()) == described.stride, described.name
        q, k, v, *scales = (bound[tensor].float() for tensor in self.inputs)
        if scales:
            q, k, v = (tensor * scale for tensor, scale in zip((q, k, v), scales[:3], strict=True))
            self.p_scale = float(scales[4]), float(scales[3])
            assert float(scales[5]) == 1.0
        causal = self.options.get("use_causal_mask", False) or self.options.get("use_causal_mask_bottom_right", False)
        bottom_right = self.options.get("use_causal_mask_bottom_right", False)
        heads_last = (tensor.transpose(1, 2) for tensor in (q, k, v))
        out, lse = attention(*heads_last, self.options["attn_scale"], causal, bottom_right)
        bound[self.outputs[0]].copy_(out.transpose(1, 2))
        bound[self.outputs[1]].copy_(lse.unsqueeze(-1))


@pytest.fixture
def frontend(monkeypatch):
    """A fake `cudnn` module, and torch's current stream without CUDA."""
    made = []
    module = ModuleType("cudnn")
    module.__spec__ = ModuleSpec("cudnn", loader=None)
    module.data_type = SimpleNamespace(HALF="half", BFLOAT16="bf16", FP8_E4M3="e4m3", FLOAT="float")
    module.heur_mode = SimpleNamespace(A="A")
    module.pygraph = lambda **context: made.append(FakeGraph(**context)) or made[-1]
    module.create_handle = object
    module.streams = []
    module.set_stream = lambda handle, stream: module.streams.append(stream)
    monkeypatch.setitem(sys.modules, "cudnn", module)
    _forget_graph_module()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    yield SimpleNamespace(module=module, made=made)
    _forget_graph_module()


def _forget_graph_module():
    """It imports `cudnn` at its top: the next import must find the one that is installed then."""
    sys.modules.pop("attnbench.backends.cudnn.graph", None)
    vars(cudnn).pop("graph", None)


def test_bottom_right_through_the_frontend(frontend):
    case = Case.make(
        batch=2, seqlen_q=20, seqlen_k=33, num_heads=4, num_heads_kv=2, head_dim=64, head_dim_v=32, causal=True
    )
    inputs = make_inputs(case)
    outputs = builtin()["cudnn"].prepare(case, inputs)()
    exact, lse = attention(inputs.q, inputs.k, inputs.v, case.scale, True)
    assert relative_rmse(outputs.out, exact) < 5e-3
    torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-5)
    (graph,) = frontend.made
    assert graph.steps == [
        "validate",
        "build_operation_graph",
        "create_execution_plans",
        "check_support",
        "build_plans",
    ]
    assert graph.barred == ["sdpa_fwd"]
    assert frontend.module.streams == [7]


def test_input_sets_share_the_plan_and_nothing_else(frontend):
    case = Case.make(batch=1, seqlen_q=20, seqlen_k=33, num_heads=1, head_dim=64, causal=True)
    calls = [builtin()["cudnn"].prepare(case, make_inputs(case, input_set=number)) for number in (0, 1)]
    first, other, again = calls[0](), calls[1](), calls[0]()
    assert len(frontend.made) == 1
    assert torch.equal(first.out, again.out) and not torch.equal(first.out, other.out)
    assert len({outputs.out.data_ptr() for outputs in (first, other, again)}) == 3


@pytest.mark.parametrize("causal, seqlen_k", [(False, 33), (True, 20), (True, 33)])
def test_e4m3_through_the_frontend(causal, seqlen_k, frontend):
    case = Case.make(
        batch=2, seqlen_q=20, seqlen_k=seqlen_k, num_heads=4, num_heads_kv=2, head_dim=64, causal=causal,
        dtype="e4m3", scaling="tensor", p_scale=64,
    )  # fmt: skip
    inputs = make_inputs(case)
    outputs = builtin()["cudnn"].prepare(case, inputs)()
    quantized = inputs.quantized
    q, k, v = (
        dequantize(getattr(quantized, name), getattr(quantized, f"{name}_descale"), case) for name in ("q", "k", "v")
    )
    exact, _ = attention(q, k, v, case.scale, causal)
    assert outputs.out.dtype == torch.bfloat16
    assert relative_rmse(outputs.out, exact) < 5e-3
    (graph,) = frontend.made
    assert graph.p_scale == (64.0, 1 / 64)
    assert [tensor.data_type for tensor in graph.outputs] == ["bf16", "float", "float", "float"]


def test_an_engine_of_the_frontend_is_refused(frontend):
    def substituted(**context):
        graph = FakeGraph(**context)
        graph.selected_engine = SimpleNamespace(name="sdpa_fwd_other")
        return graph

    frontend.module.pygraph = substituted
    case = Case.make(batch=1, seqlen_q=20, seqlen_k=33, num_heads=1, head_dim=64, causal=True)
    with pytest.raises(RuntimeError, match="chose its own engine sdpa_fwd_other, not the cuDNN library's"):
        builtin()["cudnn"].prepare(case, make_inputs(case))


@pytest.mark.skipif(not module_installed("cudnn"), reason="not run: needs nvidia-cudnn-frontend")
@pytest.mark.parametrize("dtype, node", [("bf16", "SDPA"), ("e4m3", "SDPA_FP8")])
def test_the_real_frontend_takes_the_description(dtype, node):
    scaling = {"scaling": "tensor"} if dtype == "e4m3" else {}
    case = Case.make(
        batch=2, seqlen_q=20, seqlen_k=33, num_heads=4, num_heads_kv=2, head_dim=64, causal=True, dtype=dtype, **scaling
    )
    described = importlib.import_module("attnbench.backends.cudnn.graph").describe(case)
    (only,) = described.graph.nodes
    assert only.node_type.name == node
    assert only.params["use_causal_mask_bottom_right"] is True
    assert list(described.tensors["out"].get_dim()) == [2, 4, 20, 64]
    assert list(described.tensors["out"].get_stride()) == [20 * 4 * 64, 64, 4 * 64, 1]
    assert list(described.tensors["lse"].get_dim()) == [2, 4, 20, 1]
