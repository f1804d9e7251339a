"""Conversions and arithmetic of the interpreter, held against ml_dtypes over whole types: every bit the same."""

from __future__ import annotations

import ml_dtypes
import numpy
import pytest
import torch

from attnbench.interpreters.triton.arithmetic import ELEMENTWISE
from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.numbers import LARGEST, converted, tf32

NUMPY = {
    torch.bfloat16: ml_dtypes.bfloat16, torch.float16: numpy.float16, torch.float32: numpy.float32,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn, torch.float8_e5m2: ml_dtypes.float8_e5m2,
}  # fmt: skip
NARROW = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
# Leading bits of fp32 of which every pattern is tried, and its neighbours: ties of bf16 need 17, of fp16 20.
LEADING_BITS = 20


def every_pattern(dtype):
    kind = BITS[dtype.itemsize]
    return torch.arange(1 << (8 * dtype.itemsize), dtype=torch.int64).to(kind).view(dtype)


def many_fp32(leading=LEADING_BITS):
    heads = (torch.arange(1 << leading, dtype=torch.int64) << (32 - leading)).to(torch.int32)
    return torch.cat([heads, heads + 1, heads - 1]).view(torch.float32)


def held(x, dtype):
    """Nearest even; 8 bits saturate; NaN stays."""
    made = converted(x, dtype)
    nan = x.float().isnan()
    assert bool((made.float().isnan() == nan).all())
    wide = x.to(torch.float64)
    if dtype in LARGEST:
        beyond = wide.abs() > LARGEST[dtype]
        assert bool((made.double()[beyond & ~nan] == wide.sign()[beyond & ~nan] * LARGEST[dtype]).all())
        nan = nan | beyond
    right = torch.from_numpy(wide.numpy().astype(NUMPY[dtype]).view(f"u{dtype.itemsize}").astype("int64"))
    bits = made.view(BITS[dtype.itemsize]).to(torch.int64) & ((1 << (8 * dtype.itemsize)) - 1)
    assert bool((bits == right)[~nan].all())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_fp32_is_rounded_to_nearest_even(dtype):
    with numpy.errstate(all="ignore"):
        held(many_fp32(), dtype)


@pytest.mark.full
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_fp32_with_more_leading_bits(dtype):
    with numpy.errstate(all="ignore"):
        held(many_fp32(23), dtype)


@pytest.mark.parametrize("source", NARROW, ids=str)
@pytest.mark.parametrize("dtype", [*NARROW, torch.float32], ids=str)
def test_every_pattern_of_a_narrow_type(source, dtype):
    with numpy.errstate(all="ignore"):
        held(every_pattern(source), dtype)


def test_fp64_is_rounded_once():
    """1 + 2^-8 is a tie of bf16; a little more than that, lost in fp32, is none."""
    near = torch.tensor([1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8 - 2.0**-40], dtype=torch.float64)
    assert converted(near, torch.bfloat16).tolist() == [1.0, 1 + 2.0**-7, 1.0]
    # numpy rounds fp64 to fp16 once; ml_dtypes goes through fp32.
    held(torch.randn(1 << 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.float16)


def test_named_values_of_e4m3():
    given = torch.tensor([500.0, float("inf"), -1e30, 17.0, 19.0, 2.0**-10, 3 * 2.0**-10, float("nan")])
    made = converted(given, torch.float8_e4m3fn).float()
    assert made[:-1].tolist() == [448.0, 448.0, -448.0, 16.0, 20.0, 0.0, 2 * 2.0**-9] and made[-1].isnan()


def test_toward_zero():
    x = many_fp32(16)[:: 1 << 3]
    x = x[x.isfinite()]
    made = converted(x, torch.bfloat16, toward_zero=True)
    assert bool((made.view(torch.int16) == (x.view(torch.int32) >> 16).to(torch.int16)).all())


def test_tf32_keeps_ten_bits():
    assert tf32(torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, -1 - 2.0**-12])).tolist() == [1 + 2.0**-10, 1.0, -1.0]


def pairs_of(dtype, count=1024):
    picked = every_pattern(dtype)[torch.randperm(65536, generator=torch.Generator().manual_seed(1))[:count]]
    return (x.contiguous().flatten() for x in torch.broadcast_tensors(picked[:, None], picked[None]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "function"),
    [("arith.addf", numpy.add), ("arith.subf", numpy.subtract), ("arith.mulf", numpy.multiply),
     ("arith.divf", numpy.divide), ("arith.maxnumf", numpy.fmax), ("arith.minnumf", numpy.fmin)],
)  # fmt: skip
def test_arithmetic_of_16_bits_is_rounded_once(dtype, name, function):
    """In fp64, which holds sums and products of these types nearly exactly, then rounded to the type."""
    left, right = pairs_of(dtype)
    made = ELEMENTWISE[name](Operation(name), left, right)
    with numpy.errstate(all="ignore"):
        wide = torch.from_numpy(function(left.double().numpy(), right.double().numpy()))
    exact = converted(wide, dtype)
    assert made.dtype == dtype and bool((made.isnan() == exact.isnan()).all())
    assert bool((made == exact)[~exact.isnan()].all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("predicate", ["oeq", "one", "olt", "ole", "ogt", "oge", "ueq", "une", "ult", "uno", "ord"])
def test_comparisons_of_16_bits(dtype, predicate):
    left, right = pairs_of(dtype, 256)
    made = ELEMENTWISE["arith.cmpf"](Operation("arith.cmpf", attributes={"predicate": predicate}), left, right)
    a, b = left.double().numpy(), right.double().numpy()
    unordered = numpy.isnan(a) | numpy.isnan(b)
    compare = {"eq": numpy.equal, "ne": numpy.not_equal, "lt": numpy.less, "le": numpy.less_equal,
               "gt": numpy.greater, "ge": numpy.greater_equal}  # fmt: skip
    if predicate in ("uno", "ord"):
        expected = unordered if predicate == "uno" else ~unordered
    else:
        found = compare[predicate[1:]](a, b)
        expected = found | unordered if predicate[0] == "u" else found & ~unordered
    assert made.tolist() == expected.tolist()
