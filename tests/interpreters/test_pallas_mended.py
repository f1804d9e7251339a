"""Where jax's interpreters stop and need not: each mend by the smallest kernel that needs it; arrays to and fro."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from paths import ROOT

from attnbench.backend import HazardError, Outputs, UnsupportedError
from attnbench.interpreters.backend import Conditions
from attnbench.interpreters.session import InterpretError, Session

jax = pytest.importorskip("jax", reason="not run: jax is not installed (pip install 'attnbench[jax]')")

import jax.numpy as jnp  # noqa: E402  # where there is jax
from jax.experimental import pallas as pl  # noqa: E402
from jax.experimental.pallas import tpu  # noqa: E402

from attnbench.interpreters.pallas.arrays import on_jax_arrays, to_jax, to_torch  # noqa: E402
from attnbench.interpreters.pallas.language import PallasLanguage  # noqa: E402

SHAPE = (8, 128)


def ran(mode, body, *inputs, second=False, **call):
    """What a kernel of one program leaves in its output, jax's arrays in and out."""

    @jax.jit
    def function(*arrays):
        return pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct(SHAPE, jnp.float32), **call)(*arrays)

    language = PallasLanguage(mode, asked=True)
    conditions = [Conditions(), Conditions(poisoned=True, order=3)][: 1 + second]
    return [language.called(lambda: Outputs(function(*inputs)), each)[0].out for each in conditions][-1]


def test_a_store_to_a_row_that_is_a_python_integer():
    def body(x_ref, out_ref):
        out_ref[...] = x_ref[...]
        row = out_ref.at[2]
        tpu.store(row.at[...], x_ref[0] + 1.0)

    x = jnp.arange(8 * 128, dtype=jnp.float32).reshape(SHAPE)
    expected = torch.arange(8 * 128, dtype=torch.float32).reshape(SHAPE)
    expected[2] = expected[0] + 1
    assert torch.equal(ran("hlo", body, x), expected)


@pytest.mark.parametrize("mode", ["hlo", "tpu"])
def test_a_masked_store_into_a_part_of_a_buffer(mode):
    def body(x_ref, out_ref):
        out_ref[...] = x_ref[...]
        mask = jax.lax.broadcasted_iota(jnp.int32, (4, 2), 0) > 1
        tpu.store(out_ref.at[pl.ds(4, 4), pl.ds(0, 2)], jnp.zeros((4, 2)), mask=mask)

    expected = torch.ones(SHAPE)
    expected[6:, :2] = 0
    assert torch.equal(ran(mode, body, jnp.ones(SHAPE)), expected)


def test_programs_that_may_run_in_any_order_do_in_the_second_pass():
    """Each writes its number over the whole output: the last one is another program then."""

    def body(out_ref):
        out_ref[...] = jnp.full(SHAPE, pl.program_id(0) * 10 + pl.program_id(1), jnp.float32)

    def last(semantics, second):
        how = tpu.CompilerParams(dimension_semantics=semantics)
        whole = pl.BlockSpec(SHAPE, lambda i, j: (0, 0))
        return int(ran("hlo", body, second=second, grid=(3, 4), out_specs=whole, compiler_params=how)[0, 0])

    assert last(("parallel", "arbitrary"), second=False) == 23
    assert last(("parallel", "arbitrary"), second=True) == 13, "rows 0, 2, 1, each from its first column"
    assert last(("arbitrary", "arbitrary"), second=True) == 23


def test_memory_that_nobody_wrote_is_nan():
    def body(out_ref):
        out_ref[0, :] = jnp.zeros(128)

    for mode in ("hlo", "tpu"):
        out = ran(mode, body)
        assert out[0].eq(0).all() and out[1:].isnan().all()


def test_what_an_interpreter_does_not_know_is_no_fault_of_the_kernel():
    def body(x_ref, out_ref):
        mask = jax.lax.broadcasted_iota(jnp.int32, SHAPE, 0) > 1
        out_ref[...] = tpu.load(x_ref, mask=mask)

    with pytest.raises(UnsupportedError, match="tpu interpreter stops at NotImplementedError: masked load_p; try"):
        ran("tpu", body, jnp.ones(SHAPE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int32])
def test_arrays_keep_their_bits(dtype):
    tensor = (torch.arange(24).reshape(2, 3, 4) - 7).to(dtype)
    array = to_jax(tensor.transpose(0, 2))
    assert array.shape == (4, 3, 2) and str(array.dtype) == str(dtype).removeprefix("torch.")
    assert torch.equal(to_torch(array), tensor.transpose(0, 2))
    assert to_torch(array).dtype == dtype
    out, none = on_jax_arrays(lambda x, y: (x + y, None))(tensor, tensor)
    assert torch.equal(out, tensor + tensor) and none is None


def test_a_mode_without_jax_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InterpretError, match=r"^--interpret=tpu: jax is not installed here; pip install 'attnbench\[jax\]'$"
    ):
        Session("tpu")


def test_where_no_plugin_imports_jax_nobody_does():
    """Nor torch, so that this process of its own is quick."""
    source = (
        "import sys; from attnbench.interpreters.session import Session; from attnbench.backend import Outputs\n"
        "from attnbench.interpreters.backend import Conditions; pallas = Session('auto').languages[-1]\n"
        "with pallas.inside(): pass\n"
        "assert pallas.name == 'pallas' and pallas.called(lambda: Outputs(1), Conditions())[1].kernels == ()\n"
        "assert not {'jax', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True)


def test_a_block_outside_of_its_array_is_a_hazard():
    """jax's hlo interpreter takes the last block instead."""

    def body(x_ref, out_ref):
        out_ref[...] = x_ref[...]

    block = pl.BlockSpec((8, 128), lambda i: (i, 0))
    x = jnp.ones((8, 128))
    assert ran("hlo", body, x, grid=(1,), in_specs=[block], out_specs=block).eq(1).all()
    outside = pl.BlockSpec((8, 128), lambda i: (i + 1, 0))
    with pytest.raises(
        HazardError, match=r"^body: a block of \[8, 128\] at \(8, 0\) lies outside of its array of \[8, 12"
    ):
        ran("hlo", body, x, grid=(1,), in_specs=[outside], out_specs=block)
    with pytest.raises(HazardError, match="Out-of-bounds block index"):
        ran("tpu", body, x, grid=(1,), in_specs=[outside], out_specs=block)


def test_the_tpu_interpreter_reads_and_stores_through_a_reshape():
    def body(x_ref, out_ref):
        out_ref[...] = x_ref.reshape(4, 2, 128)[...].sum(1).repeat(2, 0)
        row = jax.lax.broadcasted_iota(jnp.int32, (2, 128), 0)
        tpu.store(out_ref.reshape(4, 2, 128).at[1], jnp.zeros((2, 128)), mask=row > 0)

    expected = torch.arange(4).mul(4).add(1).float().repeat_interleave(2)[:, None].repeat(1, 128)
    expected[3] = 0
    x = jnp.arange(8, dtype=jnp.float32)[:, None].repeat(128, 1)
    assert torch.equal(ran("tpu", body, x), expected)


def test_the_tpu_interpreter_reads_through_a_bitcast_as_a_tpu_packs_words():
    def body(x_ref, out_ref):
        words = x_ref.bitcast(jnp.uint32)[...]
        low = jax.lax.bitcast_convert_type(words << 16, jnp.float32)
        high = jax.lax.bitcast_convert_type(words & jnp.uint32(0xFFFF0000), jnp.float32)
        out_ref[...] = jnp.concatenate([low, high])

    x = jnp.arange(8, dtype=jnp.bfloat16)[:, None].repeat(128, 1)
    expected = torch.tensor([0.0, 2, 4, 6, 1, 3, 5, 7])[:, None].repeat(1, 128)
    assert torch.equal(ran("tpu", body, x), expected)


@pytest.mark.parametrize(
    ("precision", "bits"), [("F16_F16_F32", 10), ("TF32_TF32_F32", 10), ("BF16_BF16_F32", 7), ("TF32_TF32_F32_X3", 23)]
)
def test_a_dot_of_named_precision_rounds_its_operands(precision, bits):
    """XLA's CPU backend refuses three of the four, and rounds nothing for the other."""

    def body(x_ref, y_ref, out_ref):
        how = getattr(jax.lax.DotAlgorithmPreset, precision)
        out_ref[...] = jax.lax.dot(x_ref[...], y_ref[...], precision=how, preferred_element_type=jnp.float32)

    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(8, 64, generator=generator), torch.rand(64, 128, generator=generator)
    unit = 2.0 ** (torch.frexp(torch.stack([x.abs().max(), y.abs().max()]).max())[1].item() - 1 - bits)
    out = ran("hlo", body, to_jax(x), to_jax(y)).double()
    exact = x.double() @ y.double()
    how = torch.trunc if precision == "TF32_TF32_F32" else torch.round
    rounded = rounded_to(x, bits, how) @ rounded_to(y, bits, how)
    assert (out - rounded).abs().max() < 1e-5
    if bits < 23:
        assert (out - exact).abs().max() > unit / 8


def rounded_to(x, bits, how=torch.round):
    """To so many bits of a mantissa, nearest even unless `how` says otherwise."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp(how(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)
