"""The Triton kernel executed on the CPU (`attnbench.interpreters`), judged like any backend.

Shapes are small, since each is compiled, and the products of parameters `full`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from plain_attention import attention, relative_rmse

pytest.importorskip("triton", reason="not run: needs Triton")

from attnbench.backend import Inputs, Outputs, Quantized
from attnbench.backends import builtin
from attnbench.backends import triton as backend_module
from attnbench.backends.triton.forward import attention_forward
from attnbench.backends.triton.launch import (
    COMPILER_OPTIONS,
    Tile,
    allocate,
    arguments,
    grid,
    set_block_shapes,
    strides,
    tile_arguments,
    tma_takes,
)
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.interpreters.triton.launch import install
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference

INTERPRETER = install()
PATHS = pytest.mark.parametrize("tma", [True, False], ids=["tma", "pointers"])


def full(*values):
    """A parameter set for the full run only."""
    return pytest.param(*values, marks=pytest.mark.full)


L2_BYTES = 50 * 2**20


def launch(case, inputs, tma, tile=Tile(32, 32, 4, 2), l2_bytes=L2_BYTES):
    """One launch into buffers of NaN."""
    out, lse = allocate(case, inputs.q)
    fixed = arguments(case, inputs, tma, l2_bytes)
    values = {**fixed, "out": out.fill_(torch.nan), "lse": lse.fill_(torch.nan), **strides("o", out)}
    values |= tile_arguments(tile)
    set_block_shapes(values)
    attention_forward[grid(case)](**values, **COMPILER_OPTIONS)
    return Outputs(out, lse)


def make_case(**values):
    return Case.make(**{"batch": 1, "num_heads": 1, "head_dim": 32, "dtype": "fp16", **values})


def assert_right(case, outputs, inputs):
    accuracy = judge(make_reference(case, inputs, "full"), builtin()["triton"], outputs)
    assert accuracy.passed, "; ".join(map(str, accuracy.failures))
    assert any("lse" in check.rule.lower() for check in accuracy.checks)


LENGTHS = [
    (1, 1), (33, 33), (1, 129), (33, 97), (97, 33), full(3, 3), full(31, 31), full(32, 32), full(70, 1), full(2, 2),
    full(64, 64), full(63, 65), full(129, 1), full(100, 100),
]  # fmt: skip


@PATHS
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seqlen_q, seqlen_k", LENGTHS)
def test_lengths(seqlen_q, seqlen_k, causal, tma):
    case = make_case(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal)
    inputs = make_inputs(case)
    assert_right(case, launch(case, inputs, tma), inputs)


@PATHS
@pytest.mark.parametrize(
    "dims",
    [(8, 8), (24, 24), (80, 80), (192, 128), (32, 64), full((16, 16)), full((40, 40)), full((64, 64)),
     full((128, 128)), full((256, 256))],
)  # fmt: skip
def test_head_dims(dims, tma):
    case = make_case(seqlen_q=30, seqlen_k=45, head_dim=dims[0], head_dim_v=dims[1], causal=True, dtype="bf16")
    inputs = make_inputs(case)
    assert tma_takes(case)
    assert_right(case, launch(case, inputs, tma), inputs)


def test_head_dim_that_tma_cannot_read():
    case = make_case(seqlen=40, head_dim=20, causal=True)  # 40 bytes a head
    inputs = make_inputs(case)
    assert not tma_takes(case)
    assert_right(case, launch(case, inputs, tma=False), inputs)


@PATHS
@pytest.mark.parametrize("tile", [Tile(64, 16, 4, 3), Tile(128, 64, 8, 2), full(Tile(16, 64, 4, 2))])
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(70, 150), full(150, 70)])
def test_tiles(seqlen_q, seqlen_k, tile, tma):
    case = make_case(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=True, softmax_scale=0.4)
    inputs = make_inputs(case)
    assert_right(case, launch(case, inputs, tma, tile), inputs)


@PATHS
@pytest.mark.parametrize(
    "num_heads, num_heads_kv, l2_bytes",
    [(6, 2, 12_000), (3, 3, 41_000), (2, 1, 0), full(6, 2, 0), full(6, 2, L2_BYTES), full(8, 1, 12_000),
     full(3, 3, L2_BYTES)],
)  # fmt: skip
def test_heads_and_sections(num_heads, num_heads_kv, l2_bytes, tma):
    """Every (tile, head) is computed once whatever the section: all heads, some, one group; the last one short."""
    case = make_case(batch=2, seqlen_q=40, seqlen_k=40, num_heads=num_heads, num_heads_kv=num_heads_kv, causal=True)
    inputs = make_inputs(case)
    assert_right(case, launch(case, inputs, tma, l2_bytes=l2_bytes), inputs)


@PATHS
@pytest.mark.parametrize("inputs", ["large_logits", "rising", full("falling"), "needle", full("outliers")])
@pytest.mark.parametrize("causal", [True, full(False)])
def test_hard_inputs(inputs, causal, tma):
    case = make_case(seqlen_q=40, seqlen_k=100, head_dim=64, causal=causal, inputs=inputs)
    drawn = make_inputs(case)
    assert_right(case, launch(case, drawn, tma), drawn)


@PATHS
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_of_the_next_sequence_stays_there(name, tma):
    """Tiles at the end of sequence 0 reach into sequence 1, which is all NaN."""
    case = make_case(batch=2, seqlen_q=33, seqlen_k=35)
    inputs = make_inputs(case)
    getattr(inputs, name)[1] = torch.nan
    outputs = launch(case, inputs, tma)
    exact, lse = attention(inputs.q[:1], inputs.k[:1], inputs.v[:1], case.scale, False)
    assert relative_rmse(outputs.out[:1], exact) < 1e-3
    torch.testing.assert_close(outputs.lse[:1].double(), lse, rtol=0, atol=1e-5)
    assert outputs.out[1].isnan().all()


@PATHS
def test_nan_in_a_visible_value_row_shows(tma):
    case = make_case(seqlen=60, num_heads=2, causal=True)
    inputs = make_inputs(case)
    inputs.v[0, 50, 1] = torch.nan
    outputs = launch(case, inputs, tma)
    assert outputs.out[0, 50:, 1].isnan().all()
    assert not outputs.out[0, :, 0].isnan().any()


def quantized_as_fp16(case, smallest_descale=0.0):
    """fp16 tensors in the place of e4m3 ones, with descales that all differ."""
    generator = torch.Generator().manual_seed(1)
    originals = make_inputs(replace(case, dtype="fp16", scaling="head", block_size=128, p_scale=256))
    tensors = {name: getattr(originals, name) for name in ("q", "k", "v")}
    descales = {}
    for name, tensor in tensors.items():
        batch, seqlen, heads, _ = tensor.shape
        blocks = math.ceil(seqlen / case.block_size)
        shapes = {"none": (1,), "tensor": (1,), "head": (batch, heads), "token": (batch, seqlen, heads)}
        shape = {**shapes, "block": (batch, blocks, heads)}[case.scaling]
        descale = torch.ones(shape) if case.scaling == "none" else torch.rand(shape, generator=generator) * 1.5
        descales[f"{name}_descale"] = descale.clamp(min=smallest_descale)
    return Inputs(originals.q, originals.k, originals.v, Quantized(**tensors, **descales))


def dequantized(case, inputs):
    from attnbench.reference.quantize import dequantize

    source = inputs.quantized
    return (dequantize(getattr(source, name), getattr(source, f"{name}_descale"), case) for name in ("q", "k", "v"))


@PATHS
@pytest.mark.parametrize("p_scale", [256, full(1)])
@pytest.mark.parametrize(
    "scaling, block_size",
    [
        ("tensor", 128),
        ("head", 128),
        ("token", 128),
        ("block", 64),
        ("block", 24),
        full("none", 128),
        full("block", 32),
    ],
)
@pytest.mark.parametrize("causal, seqlen_q, seqlen_k", [(True, 30, 101), full(False, 101, 50)])
def test_descales(causal, seqlen_q, seqlen_k, scaling, block_size, p_scale, tma):
    """Blocks of whole key tiles (one descale a tile), of parts of tiles, and across tiles."""
    case = Case.make(
        batch=2, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads=2, num_heads_kv=1, head_dim=32, head_dim_v=48,
        dtype="e4m3", scaling=scaling, block_size=block_size, p_scale=p_scale, causal=causal,
    )  # fmt: skip
    inputs = quantized_as_fp16(case)
    outputs = launch(case, inputs, tma)
    exact, lse = attention(*dequantized(case, inputs), case.scale, causal)
    assert relative_rmse(outputs.out, exact) < 1e-3
    torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-4)


@PATHS
@pytest.mark.parametrize("scaling", ["head", "token", "block"])
def test_descale_of_zero_is_finite(scaling, tma):
    case = Case.make(
        batch=1, seqlen=50, num_heads=1, head_dim=32, dtype="e4m3", scaling=scaling, block_size=32, causal=True
    )
    inputs = quantized_as_fp16(case)
    zeros = {name: torch.zeros_like(getattr(inputs.quantized, name)) for name in ("q_descale", "v_descale")}
    outputs = launch(case, replace(inputs, quantized=replace(inputs.quantized, **zeros)), tma)
    assert outputs.out.eq(0).all()
    expected = torch.arange(1, 51).log().expand(1, 1, 50)  # every visible key weighs the same
    torch.testing.assert_close(outputs.lse, expected, rtol=1e-5, atol=1e-5)


@PATHS
def test_e4m3_tensors_are_right(tma):
    case = Case.make(batch=1, seqlen=50, num_heads=1, head_dim=32, dtype="e4m3", causal=True, hadamard=True)
    inputs = make_inputs(case)
    assert_right(case, launch(case, inputs, tma), inputs)


def test_the_backend_tunes_then_answers(monkeypatch):
    """prepare -> autotuner (block shapes set before each candidate, unrunnable tiles left out) -> outputs and facts."""
    properties = SimpleNamespace(major=9, minor=0, L2_cache_size=L2_BYTES, shared_memory_per_block_optin=60_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # NOTE: the autotuner as Triton has it, which times; the interpreter puts a choice without a clock in its place.
    monkeypatch.setattr("triton.runtime.autotuner.Autotuner.run", INTERPRETER.timed_choice)
    described = []
    monkeypatch.setattr(backend_module, "_describe", lambda config, binary: described.append(config) or {"warps": 1})
    tried = []

    def benchmark(call, quantiles):
        call()
        tried.append(1)
        return [float(len(tried) != 3)] * 3  # the third candidate wins

    backend_module._tuned_kernel()._do_bench = benchmark
    backend, case = backend_module.Triton(), make_case(seqlen=130, head_dim=64, causal=True)
    inputs = make_inputs(case)
    call = backend.prepare(case, inputs)
    first, second = call(), call()
    assert_right(case, first, inputs)
    assert torch.equal(first.out, second.out) and first.out.data_ptr() != second.out.data_ptr()
    assert 3 <= len(tried) < len(backend_module.TILES)
    assert len(described) == 1 and backend.kernel_facts(case)["warps"] == 1
