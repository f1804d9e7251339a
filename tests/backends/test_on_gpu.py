"""Every GPU backend against the fp64 oracle, by the same rules as a run. Not run without an NVIDIA GPU."""

from __future__ import annotations

import pytest

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference

NAMES = ("cudnn", "fa2", "fa3", "flashinfer", "flex", "triton")
SHAPES = [
    {"seqlen": 128},
    {"seqlen": 1000, "causal": True},
    {"seqlen": 513, "head_dim": 128, "num_heads_kv": 1, "causal": True},
    {"seqlen_q": 1, "seqlen_k": 777, "head_dim": 128, "num_heads_kv": 2},
    {"seqlen_q": 200, "seqlen_k": 1023, "head_dim": 128, "causal": True},
    {"seqlen_q": 300, "seqlen_k": 65, "causal": True},
    {"seqlen": 256, "head_dim": 256, "causal": True},
    {"seqlen": 256, "head_dim": 96},
    {"seqlen": 256, "head_dim": 192, "head_dim_v": 128, "causal": True},
    {"seqlen": 300, "head_dim": 128, "inputs": "large_logits"},
    {"seqlen_q": 300, "seqlen_k": 400, "head_dim": 128, "inputs": "needle", "causal": True},
    {"seqlen": 400, "inputs": "rising", "causal": True},
]
FP8 = [{"scaling": "none"}, {"scaling": "tensor"}, {"scaling": "head"}, {"scaling": "token"}, {"scaling": "block"},
       {"scaling": "head", "p_scale": 1}]  # fmt: skip


def name_of(values):
    return "-".join(f"{key}={value}" for key, value in values.items())


def check(name, **values):
    import torch

    backend = builtin()[name]
    case = Case.make(**{"batch": 2, "num_heads": 4, "head_dim": 64, **values})
    reason = backend.unavailable() or backend.unsupported(case)
    if reason:
        pytest.skip(f"not run: {reason}")
    inputs = make_inputs(case, "cuda")
    call = backend.prepare(case, inputs)
    outputs = call()
    torch.cuda.synchronize()
    accuracy = judge(make_reference(case, inputs, "full"), backend, outputs)
    assert accuracy.passed, "; ".join(map(str, accuracy.failures))
    assert torch.equal(call().out, outputs.out)  # all of them call themselves deterministic


@pytest.mark.gpu
@pytest.mark.parametrize("values", SHAPES, ids=name_of)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_16bit(name, dtype, values):
    check(name, dtype=dtype, **values)


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", FP8, ids=name_of)
@pytest.mark.parametrize("values", [SHAPES[1], SHAPES[4], SHAPES[5], SHAPES[6]], ids=name_of)
@pytest.mark.parametrize("name", ["cudnn", "fa3", "triton"])
def test_e4m3(name, values, fp8):
    check(name, dtype="e4m3", **values, **fp8)


@pytest.mark.gpu
def test_triton_reports_what_it_compiled_to():
    backend = builtin()["triton"]
    if backend.unavailable():
        pytest.skip(f"not run: {backend.unavailable()}")
    case = Case.make(batch=1, seqlen=512, num_heads=4, head_dim=128, causal=True)
    backend.prepare(case, make_inputs(case, "cuda"))()
    facts = backend.kernel_facts(case)
    assert {"block_m", "block_n", "warps", "stages", "registers", "spills", "shared_bytes"} <= set(facts)
    assert facts["registers"] > 0 and facts["spills"] == 0
