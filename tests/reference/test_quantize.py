"""The reference quantizer, the Hadamard rotation and the accumulators: shapes, exact roundings, invariants."""

import math

import numpy as np
import pytest
import torch

from attnbench.case import SCALINGS, Case
from attnbench.reference.fp8 import ACCUMULATORS, FORMATS, FRACTION_BITS, WGMMA_K, matmul_into, to_fp8
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import emulated, oracle
from attnbench.reference.quantize import (
    dequantize,
    overflowed,
    quantize,
    quantize_tensor,
    rotate,
    signs,
    walsh_hadamard,
)
from attnbench.reference.rows import choose_rows

BATCH, SEQLEN, HEADS, DIM = 2, 300, 3, 32


def make(**fields):
    problem = {"batch": BATCH, "seqlen": SEQLEN, "num_heads": HEADS, "head_dim": DIM, "dtype": "e4m3"}
    return Case.make(**{**problem, **fields})


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def groups(x, scaling, block_size):
    """(index of the descale, part of x that it is for), slowly and plainly"""
    if scaling in ("none", "tensor"):
        yield (0,), x
        return
    for batch in range(x.shape[0]):
        for head in range(x.shape[2]):
            if scaling == "head":
                yield (batch, head), x[batch, :, head]
            size = {"token": 1, "block": block_size}.get(scaling)
            for index, start in enumerate(range(0, x.shape[1], size) if size else ()):
                yield (batch, index, head), x[batch, start : start + size, head]


@pytest.mark.parametrize("block_size", [64, 128, 300, 512])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_descales_have_their_shape_and_map_the_largest_magnitude_to_the_dtypes(scaling, block_size, dtype):
    form = FORMATS[dtype]
    torch_dtype = getattr(torch, form.torch_name)
    x = normal(BATCH, SEQLEN, HEADS, DIM) * torch.logspace(-3, 3, SEQLEN)[None, :, None, None]
    stored, descale = quantize_tensor(x, scaling, block_size, dtype)
    shapes = {
        "none": (1,), "tensor": (1,), "head": (BATCH, HEADS), "token": (BATCH, SEQLEN, HEADS),
        "block": (BATCH, math.ceil(SEQLEN / block_size), HEADS),
    }  # fmt: skip
    assert tuple(descale.shape) == shapes[scaling]
    assert descale.dtype == torch.float32 and stored.dtype == torch_dtype and stored.shape == x.shape
    if scaling == "none":
        assert torch.equal(descale, torch.ones(1))
        assert torch.equal(stored.float(), x.clamp(-form.largest, form.largest).to(torch_dtype).float())
        return
    parts = list(groups(x, scaling, block_size))
    assert len(parts) == descale.numel()
    stored_parts = dict(groups(stored.float(), scaling, block_size))
    for index, part in parts:
        assert float(descale[index]) == pytest.approx(float(part.abs().max()) / form.largest, rel=1e-6)
        assert float(stored_parts[index].abs().max()) == form.largest


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_dequantized_values_are_within_half_a_step(scaling, dtype):
    case = make(scaling=scaling, block_size=128, dtype=dtype)
    x = normal(BATCH, SEQLEN, HEADS, DIM)
    stored, descale = quantize_tensor(x, scaling, case.block_size, dtype)
    back = dequantize(stored, descale, case)
    half_step = {"e4m3": 2.0**-4, "e5m2": 2.0**-3}[dtype]  # of 3 and of 2 fraction bits
    smallest = float(descale.max()) * {"e4m3": 2.0**-10, "e5m2": 2.0**-17}[dtype]  # half the step of subnormals
    assert ((back - x).abs() <= x.abs() * half_step + smallest).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_zeros_stay_zeros_with_descale_one(scaling):
    stored, descale = quantize_tensor(torch.zeros(1, 130, 2, 16), scaling, 128)
    assert torch.equal(descale, torch.ones_like(descale))
    assert torch.equal(stored.float(), torch.zeros(1, 130, 2, 16))


def test_a_zero_group_beside_others_keeps_descale_one():
    x = normal(1, 256, 2, 16)
    x[:, :128, 0] = 0
    _, descale = quantize_tensor(x, "block", 128)
    assert descale[0, 0, 0] == 1
    assert (descale[0, :, 1] < 1).all() and descale[0, 1, 0] < 1


def test_the_last_block_is_scaled_by_its_own_rows_only():
    x = torch.ones(1, 130, 1, 16)
    x[:, 128:] = 1e-3
    _, descale = quantize_tensor(x, "block", 128)
    torch.testing.assert_close(descale.flatten(), torch.tensor([1 / 448, 1e-3 / 448]))


SUBNORMAL_DESCALE = 448 * 2.0**-126


@pytest.mark.parametrize("scaling", ["tensor", "head", "token", "block"])
def test_a_group_too_small_for_a_normal_descale_keeps_descale_one(scaling):
    x = torch.full((1, 130, 2, 16), SUBNORMAL_DESCALE * 0.99)
    x[..., 0] = 0
    stored, descale = quantize_tensor(x, scaling, 128)
    assert torch.equal(descale, torch.ones_like(descale)) and not stored.float().any()
    stored, descale = quantize_tensor(x / 0.99 * 1.01, scaling, 128)
    assert (descale >= 2.0**-126).all() and (descale < 2.0**-125).all()
    assert (stored.float()[..., 1:] == 448).all() and not stored.float()[..., 0].any()


def test_every_nan_is_stored_alike_and_scales_nothing():
    x = normal(1, 4, 1, 16)
    x[0, 0, 0, 0], x[0, 1, 0, 1] = math.nan, -math.nan
    stored, descale = quantize_tensor(x, "head", 128)
    bits = stored.view(torch.uint8)
    assert bits[0, 0, 0, 0] == bits[0, 1, 0, 1] == 0x7F
    assert descale == x.nan_to_num(0.0).abs().max() / torch.tensor(448.0)


def test_an_infinity_makes_its_group_say_so():
    x = torch.tensor([1.0, -1.0, math.inf, -math.inf]).reshape(1, 1, 1, 4)
    stored, descale = quantize_tensor(x, "head", 128)
    assert descale.isinf().all()
    assert stored.view(torch.uint8).flatten().tolist() == [0x00, 0x80, 0x7F, 0x7F]
    stored, _ = quantize_tensor(x, "none", 128)
    assert stored.float().flatten().tolist() == [1.0, -1.0, 448.0, -448.0]


@pytest.mark.parametrize("exponent", [-100, -20, 0, 20, 100])
def test_a_group_scales_by_the_reciprocal_of_its_descale(exponent):
    """Each step rounded once, in numpy: the order of operations that kernels reproduce."""
    x = normal(1, 64, 1, 16) * 2.0**exponent
    stored, descale = quantize_tensor(x, "head", 128)
    group = x.numpy()
    by_hand = np.abs(group).max() / np.float32(448)
    assert by_hand.dtype == np.float32 and descale.numpy() == by_hand
    scaled = group * (np.float32(1) / by_hand)
    assert scaled.dtype == np.float32
    assert torch.equal(torch.from_numpy(scaled).clamp(-448, 448).to(torch.float8_e4m3fn).float(), stored.float())


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (17.0, 16.0), (19.0, 20.0), (18.0, 18.0),  # a step of 2: ties go to the even fraction
        (17.01, 18.0), (16.99, 16.0),
        (2.0**-9, 2.0**-9), (2.0**-10, 0.0), (3 * 2.0**-10, 2.0**-8),  # subnormals, ties to even
        (448.0, 448.0), (463.9, 448.0), (464.0, 448.0), (1e6, 448.0), (math.inf, 448.0),
    ],
)  # fmt: skip
def test_casting_to_e4m3_rounds_to_nearest_even_and_saturates(value, stored):
    """What torch does underneath; older versions gave NaN beyond 464. Oracle, quantizer and emulation rely on it."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    exact_in = [dtype for dtype in dtypes if float(torch.tensor(value, dtype=dtype)) == value]
    assert torch.float64 in exact_in
    for dtype in exact_in:
        for sign in (1, -1):
            cast = torch.full((40,), sign * value, dtype=dtype).to(torch.float8_e4m3fn)  # vectorized code and its tail
            assert torch.equal(cast.float(), torch.full((40,), sign * stored)), (dtype, sign)


@pytest.mark.parametrize("dtype", FORMATS)
def test_nan_stays_nan_through_the_cast(dtype):
    assert to_fp8(torch.tensor([math.nan]), dtype).float().isnan().all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_number_rounds_to_the_nearest_one_of_the_format(dtype):
    """Against all of the format's numbers, by search: ties to the even one, beyond the largest the largest."""
    form = FORMATS[dtype]
    held = torch.arange(256, dtype=torch.uint8).view(getattr(torch, form.torch_name)).double()
    held = held[held.isfinite()].unique()
    assert float(held.max()) == form.largest and float(held[held > 0].min()) == form.smallest
    between = (held[1:] + held[:-1]) / 2
    x = torch.cat((held, between, between * (1 + 2.0**-20), between * (1 - 2.0**-20), held * 3, normal(5000).double()))
    x = x.float().double()
    place = torch.searchsorted(held, x).clamp(1, len(held) - 1)
    low, high = held[place - 1], held[place]
    quantum = (high - low).clamp(min=form.smallest)
    even = torch.where((high / quantum).remainder(2) == 0, high, low)
    nearest = torch.where(x - low < high - x, low, torch.where(x - low > high - x, high, even))
    assert torch.equal(to_fp8(x.float(), dtype).double(), nearest)
    assert to_fp8(torch.tensor([math.inf, -math.inf]), dtype).double().tolist() == [form.largest, -form.largest]


@pytest.mark.parametrize("n", [1, 2, 8, 64, 128, 256])
def test_the_rotation_is_orthogonal(n):
    m = rotate(torch.eye(n, dtype=torch.float64), seed=3)
    torch.testing.assert_close(m @ m.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.allclose(m.abs(), torch.full((n, n), n**-0.5, dtype=torch.float64), rtol=1e-12)


def test_the_transform_is_sylvesters():
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(5):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)), 0)
    torch.testing.assert_close(walsh_hadamard(torch.eye(32, dtype=torch.float64)), h / 32**0.5, rtol=0, atol=1e-12)


def test_scores_do_not_change_under_the_rotation():
    q, k = normal(200, 128, seed=1).double(), normal(300, 128, seed=2).double()
    q[5, 7] = 1e3
    rotated = rotate(q, 11) @ rotate(k, 11).T
    assert float((rotated - q @ k.T).abs().max() / (q @ k.T).abs().max()) < 1e-12


def test_signs_come_from_the_seed():
    assert torch.equal(signs(128, 5), signs(128, 5))
    assert not torch.equal(signs(128, 5), signs(128, 6))
    assert set(signs(128, 5).tolist()) == {-1.0, 1.0}


def test_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two, not head_dim 96"):
        walsh_hadamard(torch.zeros(2, 96))


def test_quantize_rotates_q_and_k_and_leaves_v():
    case = make(hadamard=True, scaling="token", seed=4)
    q, k, v = (normal(BATCH, SEQLEN, HEADS, DIM, seed=seed) for seed in (1, 2, 3))
    made = quantize(q, k, v, case)
    plain = quantize(q, k, v, make(scaling="token", seed=4))
    assert torch.equal(made.v.float(), plain.v.float())
    for name, x in (("q", q), ("k", k)):
        back = dequantize(getattr(made, name), getattr(made, f"{name}_descale"), case)
        assert float((back - rotate(x, 4)).abs().max()) < 0.3
        assert float((back - x).abs().max()) > 1


def test_rotation_helps_against_outliers_and_only_there():
    """arXiv 2407.08608, section 3.3: the scheme's own error (E2), per-tensor scales, with inputs that can show it."""
    errors = {}
    for distribution in ("outliers", "normal"):
        for hadamard in (False, True):
            case = make(batch=1, num_heads=2, seqlen=384, hadamard=hadamard, scaling="tensor", inputs=distribution,
                        head_dim=128)  # fmt: skip
            inputs = make_inputs(case)
            rows = choose_rows(case, "full", "cpu")
            exact = oracle(case, inputs, rows, originals=True).out
            error = oracle(case, inputs, rows).out - exact
            errors[distribution, hadamard] = float(error.square().mean().sqrt() / exact.square().mean().sqrt())
    assert errors["outliers", True] < 0.8 * errors["outliers", False], errors
    assert errors["normal", True] == pytest.approx(errors["normal", False], rel=0.1)


@pytest.mark.parametrize("kind", ACCUMULATORS)
def test_every_accumulator_is_a_matrix_product(kind):
    a, b, start = normal(8, 96, seed=1), normal(96, 8, seed=2), normal(8, 8, seed=3)
    exact = start.double() + a.double() @ b.double()
    largest = float((start.double().abs() + a.double().abs() @ b.double().abs()).max())
    limit = 1e-5 if kind == "fp32" else (96 + 96 / WGMMA_K) * 2.0**-FRACTION_BITS * largest
    assert float((matmul_into(start, a, b, kind) - exact).abs().max()) < limit


def test_hoppers_accumulator_loses_what_two_level_keeps():
    """Same-sign products over a long sum: DeepSeek-V3 (arXiv 2412.19437), section 3.5.2."""
    tile, tiles = 128, 64
    a, b = torch.full((1, tile), 0.5), normal(tile, 1, seed=1).abs()
    exact = tiles * float(a.double() @ b.double())
    errors = {}
    for kind in ACCUMULATORS:
        total = torch.zeros(1, 1)
        for _ in range(tiles):
            total = matmul_into(total, a, b, kind)
        errors[kind] = abs(float(total) - exact) / exact
    assert errors["fp32"] < 1e-5 and errors["two_level"] < 3e-3
    assert errors["hopper"] > 5 * errors["two_level"]


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_descales_after_the_products_give_what_dequantized_factors_give(scaling, hadamard):
    problem = make(seqlen=300, num_heads=4, num_heads_kv=2, scaling=scaling, hadamard=hadamard, inputs="outliers")
    inputs = make_inputs(problem)
    rows = choose_rows(problem, "full", "cpu")
    stored, plain = emulated(problem, inputs, rows, "fp32", False), oracle(problem, inputs, rows)
    assert float((stored.out - plain.out).abs().max()) < 1e-5 * float(plain.out.abs().max())
    assert float((stored.lse - plain.lse).abs().max()) < 1e-5 * float(plain.lse.abs().max())


def test_truncation_is_towards_zero_at_thirteen_fraction_bits():
    one, small = torch.ones(1, 1), 2.0**-13
    for value, expected in ((small, 1 + small), (small * 0.99, 1.0), (-small * 0.99, 1.0), (-small, 1 - small)):
        product = matmul_into(one, torch.full((1, 1), value), torch.ones(1, 1), "hopper")
        assert float(product) == expected


def test_each_product_is_cut_not_their_sum():
    """32 products of 0.75 of a quantum beside a one: each is lost, though together they are 24 quanta."""
    products = torch.full((1, WGMMA_K), 0.75 * 2.0**-FRACTION_BITS)
    assert float(matmul_into(torch.ones(1, 1), products, torch.ones(WGMMA_K, 1), "hopper")) == 1.0
    assert float(matmul_into(torch.zeros(1, 1), products, torch.ones(WGMMA_K, 1), "hopper")) == 24 * 2.0**-FRACTION_BITS


@pytest.mark.parametrize("shape", [(3, 300, 40, 9), (2, 2, 5, 33, 64), (1, 1, 1)], ids=str)
def test_sums_do_not_depend_on_how_rows_are_chunked(shape, monkeypatch):
    *lead, rows, depth, columns = shape
    a, b, start = (
        normal(*lead, rows, depth),
        normal(*lead, depth, columns, seed=1),
        normal(*lead, rows, columns, seed=2),
    )
    whole = matmul_into(start, a, b, "hopper")
    monkeypatch.setattr("attnbench.reference.fp8.PRODUCTS_AT_ONCE", 2**12)
    assert torch.equal(matmul_into(start, a, b, "hopper"), whole)
    alone = torch.cat(
        [matmul_into(start[..., r : r + 1, :], a[..., r : r + 1, :], b, "hopper") for r in range(rows)], -2
    )
    assert torch.equal(alone, whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_truncated_sums(bad):
    total = matmul_into(torch.zeros(2, 1), torch.tensor([[1.0, bad], [1.0, 1.0]]), torch.ones(2, 1), "hopper")
    assert not bool(total[0].isfinite()) and float(total[1]) == 2.0


def test_an_unknown_accumulator_is_refused():
    with pytest.raises(ValueError, match="unknown accumulator 'fp22'; one of fp32, hopper, two_level"):
        matmul_into(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), "fp22")


@pytest.mark.parametrize("dtype", FORMATS)
def test_conversion_saturates_whatever_a_library_does_with_large_numbers(dtype):
    """torch gives 448 for 500 in e4m3 and infinity beyond e5m2's largest; ml_dtypes, and so jax, NaN and infinity."""
    import ml_dtypes

    theirs, largest = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[dtype], FORMATS[dtype].largest
    beyond = [largest * 1.01, largest * 1.05, 500.0, 1e9, math.inf]
    found = to_fp8(torch.tensor([*beyond, *(-x for x in beyond), math.nan]), dtype).float()
    assert found[:5].tolist() == [min(largest, to_fp8(torch.tensor(x), dtype).float().item()) for x in beyond]
    assert found[3:5].tolist() == [largest] * 2 and found[8:10].tolist() == [-largest] * 2 and found[10].isnan()
    bits = torch.arange(0, 0x7F80 + 1, dtype=torch.int32)  # every bf16 number up to infinity, as fp32
    numbers = (bits << 16).view(torch.float32)
    inside = numbers[numbers <= largest]
    wanted = torch.from_numpy(inside.numpy().astype(theirs).astype(np.float32))
    assert torch.equal(to_fp8(inside, dtype).float(), wanted) and torch.equal(to_fp8(-inside, dtype).float(), -wanted)
    assert (to_fp8(numbers[numbers > largest], dtype).float() == largest).all()


def test_inputs_beyond_the_type_are_told():
    case = make(dtype="e4m3", scaling="none")
    plain = make_inputs(case)
    assert overflowed(plain, case) == "" and overflowed(plain, make(dtype="bf16")) == ""
    plain.k[0, 0, 0, :3] = torch.tensor([500.0, -1000.0, 448.0])
    plain.v[0, 1, 0, 0] = math.inf
    assert overflowed(plain, case) == "values 2 of k, 1 of v"
    assert overflowed(plain, make(dtype="e4m3", scaling="head")) == "values 1 of v"
