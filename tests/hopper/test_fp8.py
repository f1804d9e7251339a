"""The FP8 kernels from Python, on the CPU: what is refused and why, the operator, the backends' verdicts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from attnbench.backend import Backend
from attnbench.backends.hopper_fp8 import BACKENDS, HopperFp8
from attnbench.case import Case
from attnbench.hopper import schedules
from attnbench.hopper.build import Build, build_emulated
from attnbench.hopper.forward import bind, fp8_case_args, reference_operands
from attnbench.hopper.library import KernelError, KernelLibrary, Strides
from attnbench.hopper.operators import hopper_fp8_forward, register_emulation
from attnbench.hopper.schedules import FP8_SCHEDULES, BuiltKernel
from attnbench.hopper.toolchain import KERNELS
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows


def case(**values) -> Case:
    sizes = {"batch": 1, "seqlen_q": 70, "seqlen_k": 150, "num_heads": 2, "num_heads_kv": 1, "head_dim": 64}
    return Case.make(**{**sizes, "dtype": "e4m3"} | values)


@pytest.fixture(scope="module")
def library() -> KernelLibrary:
    return KernelLibrary(build_emulated(KERNELS / "fwd_fp8.cu"))


@pytest.fixture
def backend(library, monkeypatch) -> HopperFp8:
    rows = tuple(dataclasses.asdict(variant) for variant in library.variants)
    kernel = BuiltKernel(
        library.path, Build("fwd_fp8.cu", "fwd_fp8.so", "emulated", "d", "s", "g++", (), 0.0, "", rows)
    )
    monkeypatch.setattr(schedules, "built_kernel", lambda schedule: kernel)
    return HopperFp8("fp8")


def test_names_and_accumulators():
    assert {backend.name: backend.accumulator for backend in BACKENDS} == {
        "hopper_fp8": "hopper", "hopper_fp8[two_level]": "two_level",
        "hopper_fp8[no_polynomial]": "hopper", "hopper_fp8[m192]": "hopper"}  # fmt: skip
    assert all(isinstance(backend, Backend) for backend in BACKENDS)


def test_the_variant_table_keeps_its_promises(library):
    """The two main schedules answer every head_dim and mask, with blocks and without; all sum as they declare."""
    for schedule in ("fp8", "fp8_two_level"):
        for head_dim in (64, 128, 256):
            for causal in (False, True):
                assert all(library.find(schedule, "e4m3", head_dim, causal, blocks) for blocks in (False, True))
    assert {variant.schedule for variant in library.variants} == set(FP8_SCHEDULES)
    for variant in library.variants:
        assert variant.accumulator == FP8_SCHEDULES[variant.schedule].accumulator
        assert variant.tile_n == 128 or not variant.takes_blocks, "a tile of keys has one descale"
    assert len({variant.key for variant in library.variants}) == len(library.variants)


def test_unsupported_with_a_reason(backend):
    assert backend.unsupported(case()) is None
    assert backend.unsupported(case(scaling="block", causal=True)) is None
    assert backend.unsupported(case(scaling="block", block_size=512)) is None
    assert backend.unsupported(case(dtype="bf16")) == "it takes e4m3, not bf16"
    assert "not scaling by token" in backend.unsupported(case(scaling="token"))
    assert "descale_block_size is 64: must be 0" in backend.unsupported(case(scaling="block", block_size=64))
    assert "a power of two from 128 on" in backend.unsupported(case(scaling="block", block_size=192))
    assert backend.unsupported(case(p_scale=3)) == "p_scale is 3: must be a power of two from 1 to 256"
    assert backend.unsupported(case(p_scale=512)) == "p_scale is 512: must be a power of two from 1 to 256"
    assert backend.unsupported(case(head_dim=96)) == "it has no variant for e4m3, head_dim 96, not causal"
    assert backend.unsupported(case(head_dim_v=128)) == "it takes one head_dim for q, k and v"


BAD = {
    "null descale": ({"k_descale": None}, 3, "k_descale is NULL"),
    "odd descale": ({"q_descale": 258}, 15, "q_descale starts at 0x102: must be 4-byte aligned"),
    "descale stride": ({"v_descale_strides": Strides(0, -1, 0)}, 15, "v_descale stride over block is -1"),
    "out dtype": ({"out_dtype": 2}, 5, "out_dtype 2: must be 0 (fp16) or 1 (bf16) for e4m3"),
    "p_scale": ({"p_scale": 0.0}, 9, "p_scale is 0"),
    "v stride": ({"v_strides": Strides(9600, 150, 9600)}, 7, "v stride over head_dim is 150 elements (150 bytes)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(library, name):
    changes, expected, words = BAD[name]
    args = fp8_case_args(library.find("fp8", "e4m3", 64, False), case())
    assert library.supports(args) == (0, "")
    for field, value in changes.items():
        setattr(args, field, value)
    status, reason = library.supports(args)
    assert status == expected and words in reason


def test_blocks_need_a_variant_that_takes_them(library):
    plain = next(variant for variant in library.variants if not variant.takes_blocks and variant.head_dim == 64)
    args = fp8_case_args(plain, case(scaling="block", causal=bool(plain.causal)))
    status, reason = library.supports(args)
    assert status == 4 and reason.endswith("takes one descale a head, not one a block")


def test_wrong_tensors_are_one_clear_line(library):
    problem = case(scaling="block")
    operands = reference_operands(problem, make_inputs(problem).quantized)
    variant = library.find("fp8", "e4m3", 64, False, True)

    def refused(message: str, **changes) -> None:
        with pytest.raises(KernelError, match=message):
            bind(library, variant, dataclasses.replace(operands, **changes), False, 0.1, 256, torch.bfloat16)

    refused("v_t has shape .1, 1, 64, 144.: must be .1, 1, 64, 160.", v_t=operands.v_t[..., :144])
    refused("k is torch.bfloat16: must be torch.float8_e4m3fn", k=operands.k.bfloat16())
    refused("q_descale has shape .1, 2.: must be .1, 1, 2. with block_size 128", q_descale=torch.ones(1, 2))
    refused("k_descale is torch.float64", k_descale=operands.k_descale.double())


@pytest.mark.parametrize("out_dtype", [torch.float16, torch.bfloat16])
def test_the_operator(library, out_dtype):
    register_emulation(lambda schedule: library)
    problem = case(scaling="block", causal=True)
    inputs = make_inputs(problem)
    one = reference_operands(problem, inputs.quantized)
    tensors = (one.q, one.k, one.v_t, one.q_descale, one.k_descale, one.v_descale)
    arguments = (*tensors, one.block_size, True, problem.scale, 256.0, out_dtype, "fp8_two_level")
    # Not test_schema: it adds to its arguments, which torch cannot do to e4m3 on the CPU.
    torch.library.opcheck(hopper_fp8_forward, arguments, test_utils=("test_faketensor",))
    out, lse = hopper_fp8_forward(*arguments)
    exact = oracle(problem, inputs, choose_rows(problem, "full", "cpu"))
    assert out.dtype == out_dtype and lse.dtype == torch.float32
    error = (out.transpose(1, 2).double() - exact.out).square().mean().sqrt() / exact.out.square().mean().sqrt()
    assert float(error) < 0.05
    torch.testing.assert_close(lse.double(), exact.lse, rtol=0, atol=1e-4)
    with pytest.raises(KernelError, match="has no variant overlap, head_dim 64, causal, scales of blocks"):
        hopper_fp8_forward(*arguments[:-1], "overlap")
