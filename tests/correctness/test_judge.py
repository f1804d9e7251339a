"""The judge: planted bugs are rejected by the rule they break, right variants of every kind are accepted."""

import dataclasses
import math

import pytest
import torch

from attnbench.backend import Base, Outputs
from attnbench.case import Case
from attnbench.correctness.judge import judge, relative_errors
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import eager, make_reference
from attnbench.reference.quantize import dequantize
from attnbench.reference.rows import choose_rows, visible_keys
from attnbench.settings import Factors

TILE = 32


class Plain(Base):
    """A backend as far as the judge looks: it reads traits, nothing else."""

    name = "plain"


def make(**fields):
    return Case.make(**{"batch": 2, "seqlen": 160, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64, **fields})


def mask(case, shift=0):
    """(seqlen_q, seqlen_k), True where visible; shift moves the causal diagonal."""
    rows = torch.arange(case.seqlen_q)[:, None] + case.seqlen_k - case.seqlen_q + shift
    visible = torch.arange(case.seqlen_k) <= rows
    return visible if case.causal else torch.ones_like(visible)


def operands(case, inputs):
    """fp32 (batch, num_heads, seqlen, dim), key/value heads repeated"""
    ratio = case.num_heads // case.num_heads_kv
    tensors = [inputs.q, inputs.k, inputs.v]
    if case.is_fp8:
        made = inputs.quantized
        tensors = [dequantize(getattr(made, n), getattr(made, f"{n}_descale"), case) for n in "qkv"]
    q, k, v = (tensor.float().transpose(1, 2) for tensor in tensors)
    return q, k.repeat_interleave(ratio, dim=1), v.repeat_interleave(ratio, dim=1)


def flash(case, inputs, order=None, p_dtype=torch.float32, scale=None, visible=None, skip=(), v=None, k=None):
    """A tiled forward with a running maximum, as in a fused kernel: (out, lse), not rounded."""
    q, own_k, own_v = operands(case, inputs)
    k, v = own_k if k is None else k, own_v if v is None else v
    visible = mask(case) if visible is None else visible
    maximum = torch.full((*q.shape[:3], 1), -math.inf)
    total, out = torch.zeros_like(maximum), torch.zeros(*q.shape[:3], v.shape[-1])
    tiles = list(range(0, case.seqlen_k, TILE))
    for start in order(tiles) if order else tiles:
        if start in skip:
            continue
        part = slice(start, start + TILE)
        scores = q @ k[:, :, part].transpose(2, 3) * (case.scale if scale is None else scale)
        scores = scores.masked_fill(~visible[:, part], -math.inf)
        new = torch.maximum(maximum, scores.amax(dim=-1, keepdim=True))
        safe = new.masked_fill(new == -math.inf, 0)
        p, rescale = (scores - safe).exp(), (maximum - safe).exp()
        total = total * rescale + p.sum(dim=-1, keepdim=True)
        out = out * rescale + p.to(p_dtype).float() @ v[:, :, part]
        maximum = new
    lse = (maximum + total.log()).squeeze(-1)
    return out / total.masked_fill(total == 0, 1), lse


def outputs(case, out, lse=None):
    dtype = torch.float16 if case.dtype == "fp16" else torch.bfloat16
    return Outputs(out.to(dtype).transpose(1, 2).contiguous(), lse)


def split_kv(case, inputs):
    """Two halves of the keys computed apart and combined by their LSE, as flash-decoding does."""
    half = -(-case.seqlen_k // (2 * TILE)) * TILE
    tiles = range(0, case.seqlen_k, TILE)
    left = flash(case, inputs, skip=[start for start in tiles if start >= half])
    right = flash(case, inputs, skip=[start for start in tiles if start < half])
    lse = torch.logaddexp(left[1], right[1])
    seen = (lse > -math.inf)[..., None]
    weights = [(part[1] - lse.masked_fill(lse == -math.inf, 0)).exp()[..., None] for part in (left, right)]
    out = sum(weight * part[0] for weight, part in zip(weights, (left, right)))
    return out.masked_fill(~seen, 0), lse


def input_dtype(case):
    return torch.float16 if case.dtype == "fp16" else torch.bfloat16


RIGHT = {
    "fp32 P": flash,
    "16-bit P": lambda case, inputs: flash(case, inputs, p_dtype=input_dtype(case)),
    "tiles backwards": lambda case, inputs: flash(case, inputs, order=lambda tiles: tiles[::-1]),
    "odd tiles first": lambda case, inputs: flash(case, inputs, order=lambda tiles: tiles[1::2] + tiles[::2]),
    "split KV": split_kv,
}
CASES = (
    {},
    {"dtype": "fp16", "causal": True},
    {"causal": True, "seqlen_q": 70, "seqlen_k": 131},
    {"dtype": "fp16", "causal": True, "seqlen_q": 131, "seqlen_k": 70},
    {"seqlen": 1, "seed": 3},
    {"causal": True, "seqlen": 3, "head_dim_v": 16},
    {"inputs": "outliers", "seed": 1},
    {"inputs": "large_logits", "causal": True},
    {"dtype": "fp16", "inputs": "rising"},
    {"inputs": "needle", "causal": True},
    {"inputs": "sink", "num_heads_kv": 1, "softmax_scale": 0.3},
)


@pytest.fixture(scope="module")
def reference_of():
    """The reference of a case, made once in this module."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = make_reference(case, make_inputs(case))
        return made[case]

    return get


@pytest.mark.parametrize("variant", RIGHT)
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_right_variants_are_accepted(fields, variant, reference_of):
    case = make(**fields)
    ref = reference_of(case)
    out, lse = RIGHT[variant](case, ref.inputs)
    accuracy = judge(ref, Plain(), outputs(case, out, lse))
    assert accuracy.passed, accuracy.failures
    assert accuracy.rows == case.batch * case.num_heads * case.seqlen_q and accuracy.coverage == "full"


def edited(change):
    """What `change` makes of the right (out, lse)."""
    return lambda case, inputs: change(case, *flash(case, inputs))


def set_row(value):
    def change(case, out, lse):
        out[1, 2, case.seqlen_q - 2] = value
        return out, lse

    return edited(change)


def swapped_heads(case, inputs):
    """Query head h reads key/value head h % num_heads_kv instead of h // ratio."""
    right = torch.arange(case.num_heads) // (case.num_heads // case.num_heads_kv)
    wrong = torch.arange(case.num_heads) % case.num_heads_kv
    first = [int((right == head).nonzero()[0]) for head in wrong]
    _, k, v = operands(case, inputs)
    return flash(case, inputs, k=k[:, first], v=v[:, first])


def transposed_v_tile(case, inputs):
    _, _, v = operands(case, inputs)
    v = v.clone()
    v[:, :, :TILE, :TILE] = v[:, :, :TILE, :TILE].transpose(2, 3)
    return flash(case, inputs, v=v)


def missing_rescale(case, inputs):
    """The first tile and the rest are averaged, each normalized by itself."""
    out, lse = flash(case, inputs)
    first, _ = flash(case, inputs, skip=range(TILE, case.seqlen_k, TILE))
    rest, rest_lse = flash(case, inputs, skip=(0,))
    blind = rest_lse == -math.inf
    mixed = 0.5 * (first + rest)
    return torch.where(blind[..., None], out, mixed), lse


WRONG = {
    "mask one key too far": (lambda c, i: flash(c, i, visible=mask(c, 1)), None),
    "mask one key too short": (lambda c, i: flash(c, i, visible=mask(c, -1)), None),
    "no mask": (lambda c, i: flash(c, i, visible=torch.ones_like(mask(c))), None),
    "top-left mask": (lambda c, i: flash(c, i, visible=mask(c, c.seqlen_q - c.seqlen_k)), None),
    "last tile dropped": (lambda c, i: flash(c, i, skip=((c.seqlen_k - 1) // TILE * TILE,)), None),
    "first tile dropped": (lambda c, i: flash(c, i, skip=(0,)), None),
    "scale x 1.05": (lambda c, i: flash(c, i, scale=c.scale * 1.05), None),
    "no scale": (lambda c, i: flash(c, i, scale=1.0), None),
    "wrong GQA head": (swapped_heads, None),
    "transposed V tile": (transposed_v_tile, None),
    "tiles mixed without rescale": (missing_rescale, None),
    "one row zeroed": (set_row(0.0), "worst row"),
    "one row never written": (set_row(math.nan), "non-finite outputs"),
    "one element infinite": (set_row(math.inf), "non-finite outputs"),
    "all zeros": (edited(lambda c, out, lse: (out * 0, lse)), "relative RMSE"),
    "heads swapped": (edited(lambda c, out, lse: (out[:, [1, 0, 3, 2]], lse)), None),
    "output x 1.05": (edited(lambda c, out, lse: (out * 1.05, lse)), "relative RMSE"),
    "LSE in log2": (edited(lambda c, out, lse: (out, lse / math.log(2))), "LSE error"),
    "LSE sign": (edited(lambda c, out, lse: (out, -lse)), "LSE error"),
    "LSE of unscaled scores": (edited(lambda c, out, lse: (out, lse / c.scale)), "LSE error"),
    "LSE never written": (edited(lambda c, out, lse: (out, torch.full_like(lse, math.nan))), "LSE error"),
    "LSE without the row maximum": (edited(lambda c, out, lse: (out, lse - lse.amax())), "LSE error"),
}
BROKEN_CASES = (
    {"causal": True, "seqlen_q": 131, "seqlen_k": 170},
    {"causal": True, "seqlen_q": 70, "seqlen_k": 131, "dtype": "fp16", "seed": 2},
    {"causal": True, "seqlen_q": 131, "seqlen_k": 170, "inputs": "outliers", "head_dim_v": 32},
)


@pytest.mark.parametrize("bug", WRONG)
@pytest.mark.parametrize("fields", BROKEN_CASES, ids=str)
def test_planted_bugs_are_rejected(fields, bug, reference_of):
    case = make(**fields)
    ref = reference_of(case)
    plant, rule = WRONG[bug]
    out, lse = plant(case, ref.inputs)
    accuracy = judge(ref, Plain(), outputs(case, out, lse))
    assert not accuracy.passed
    failed = [check.rule for check in accuracy.failures]
    assert rule is None or any(name.startswith(rule) for name in failed), failed
    assert all(math.isnan(check.value) or check.value > check.limit for check in accuracy.failures)
    if rule == "LSE error":
        assert failed == ["LSE error"]


@pytest.mark.parametrize(("shift", "inputs"), [(1, "needle_hidden"), (-1, "needle")])
def test_needles_show_a_mask_that_is_off_by_one_in_almost_every_row(shift, inputs, reference_of):
    case = make(batch=1, num_heads=1, num_heads_kv=1, seqlen=512, head_dim=128, causal=True, inputs=inputs)
    ref = reference_of(case)
    assert judge(ref, Plain(), outputs(case, *flash(case, ref.inputs))).passed
    out, _ = flash(case, ref.inputs, visible=mask(case, shift))
    assert not judge(ref, Plain(), outputs(case, out)).passed
    error = (out.double() - ref.oracle.out).square().mean(dim=-1).sqrt()
    assert float((error > 0.3).double().mean()) > 0.95  # v is N(0, 1): two rows of it differ by sqrt(2)


def test_rows_that_see_no_key_must_be_zero_and_minus_infinity(reference_of):
    case = make(causal=True, seqlen_q=100, seqlen_k=60)
    ref = reference_of(case)
    blind = visible_keys(case, ref.rows.index)[0, 0] == 0
    assert int(blind.sum()) == 40
    for value, level, rule in ((1e-3, -math.inf, "output of rows"), (0.0, 0.0, "LSE error"), (0.0, math.inf, "LSE")):
        out, lse = flash(case, ref.inputs)
        out[0, 3, 39], lse[1, 2, 0] = value, level
        accuracy = judge(ref, Plain(), outputs(case, out, lse))
        assert next(check.rule for check in accuracy.failures).startswith(rule)
    out, lse = flash(case, ref.inputs)
    lse[1, 2, 77] = -math.inf  # and a row that sees keys must not claim to see none
    assert [check.rule for check in judge(ref, Plain(), outputs(case, out, lse)).failures] == ["LSE error"]


def test_a_failure_names_the_place(reference_of):
    case = make(causal=True)
    ref = reference_of(case)
    for value, rule in ((0.0, "worst row's relative RMSE"), (math.nan, "non-finite outputs"), (9.0, "max error")):
        out, _ = set_row(value)(case, ref.inputs)
        failure = next(c for c in judge(ref, Plain(), outputs(case, out)).failures if c.rule == rule)
        assert failure.where.startswith("batch 1, head 2, row 158")
        assert failure.where in str(failure) and "limit" in str(failure)


def test_nan_outside_the_sampled_rows_is_seen():
    case = make(batch=1, seqlen=300)
    ref = make_reference(case, make_inputs(case), "spot")
    sampled = set(ref.rows.index[0, 1].tolist())
    row = next(row for row in range(300) if row not in sampled)
    out, lse = flash(case, ref.inputs)
    assert judge(ref, Plain(), outputs(case, out, lse)).coverage == "spot"
    out[0, 1, row, 7] = math.nan
    failure = judge(ref, Plain(), outputs(case, out, lse)).failures[0]
    assert (failure.rule, failure.where) == ("non-finite outputs", f"batch 0, head 1, row {row}, column 7")


@pytest.mark.parametrize(("dtype", "scaling"), [("e4m3", "head"), ("e4m3", "block"), ("e5m2", "head")])
def test_eight_bits_are_judged_by_their_emulation(dtype, scaling, reference_of):
    case = make(dtype=dtype, seqlen=256, scaling=scaling, inputs="outliers", head_dim_v=64)
    ref = reference_of(case)
    emulated = eager(case, ref.inputs, choose_rows(case, "full", "cpu"))
    accuracy = judge(ref, Plain(), outputs(case, emulated.out, emulated.lse.float()))
    assert accuracy.passed, accuracy.failures
    values = accuracy.values
    assert values["e1"] == pytest.approx(values["e1_emulated"])
    assert 0 < values["e1"] < values["e3"] and 0 < values["e2"] < values["e3"]
    better = flash(case, ref.inputs)  # P in fp32: more exact than the scheme asks for
    assert judge(ref, Plain(), outputs(case, *better)).passed
    made = ref.inputs.quantized
    wrong = dataclasses.replace(made, k_descale=made.k_descale * 1.1)
    out, _ = flash(case, dataclasses.replace(ref.inputs, quantized=wrong))
    assert not judge(ref, Plain(), outputs(case, out)).passed
    assert not judge(ref, Plain(), outputs(case, better[0] * 1.1)).passed


def test_a_backend_with_its_own_quantizer_is_judged_on_the_originals(reference_of):
    class OwnQuantizer(Plain):
        own_quantizer = True

    case = make(dtype="e4m3", seqlen=256, inputs="outliers", scaling="tensor")
    ref = reference_of(case)
    exact = dataclasses.replace(ref.inputs, quantized=None)
    out, _ = flash(dataclasses.replace(case, dtype="bf16"), exact)
    assert judge(ref, OwnQuantizer(), outputs(case, out)).passed
    assert not judge(ref, Plain(), outputs(case, out)).passed


def test_factors_widen_and_narrow_the_limits(reference_of):
    class Partials(Plain):
        partials_16bit = True

    case = make()
    ref = reference_of(case)
    right = outputs(case, *flash(case, ref.inputs))
    tight = judge(ref, Plain(), right, Factors(max_error=1e-6, rmse=1e-6, worst_row=1e-6))
    assert {check.rule for check in tight.failures} == {"max error", "relative RMSE", "worst row's relative RMSE"}
    limits = [
        next(check.limit for check in judge(ref, backend, right).checks if check.rule == "max error")
        for backend in (Plain(), Partials())
    ]
    assert limits[1] == pytest.approx(1.5 * limits[0])


def test_the_floor_protects_rows_of_one_key():
    """With one key the eager reference is exact, so that a bare multiple of its error would be a limit of 0."""
    case = make(seqlen_q=8, seqlen_k=1)
    ref = make_reference(case, make_inputs(case))
    out, lse = flash(case, ref.inputs)
    nearby = outputs(case, out * (1 + 2.0**-9), lse)
    accuracy = judge(ref, Plain(), nearby)
    assert accuracy.passed and accuracy.values["eager_rmse"] == 0


@pytest.mark.parametrize(("seqlen_q", "factor"), [(1, 2.5), (25, 1.3), (64, 1.3)])
def test_few_rows_leave_something_to_chance_in_8_bits(seqlen_q, factor):
    """batch 1 x 4 heads: 4 rows, 100 rows, 256 rows."""
    case = make(dtype="e4m3", batch=1, seqlen_q=seqlen_q, seqlen_k=96)
    ref = make_reference(case, make_inputs(case))
    checks = judge(ref, Plain(), outputs(case, ref.eager("fp32").out, ref.oracle.lse.float())).checks
    limit = next(check.limit for check in checks if check.rule == "relative RMSE")
    exact = relative_errors(ref.eager("fp32").out, ref.oracle.out).rmse
    assert limit == pytest.approx(factor * max(exact, 2.0**-8))


def test_errors_are_relative_to_the_reference():
    exact = torch.full((1, 2, 3, 4), 2.0, dtype=torch.float64)
    out = exact.clone()
    out[0, 1, 2, 3] += 1.0
    errors = relative_errors(out, exact)
    assert (errors.max_error, errors.max_place, errors.worst_place) == (0.5, 5, 5)
    assert errors.rmse == pytest.approx(math.sqrt(1 / 24) / 2)
    assert errors.worst_row == pytest.approx(math.sqrt(1 / 4) / 2)
    assert errors.rms_ratio == pytest.approx(math.sqrt((23 * 4 + 9) / 24) / 2)


def test_a_reference_of_zeros_gives_absolute_errors():
    exact = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    out = exact.clone()
    out[0, 0, 1, 2] = 0.25
    errors = relative_errors(out, exact)
    assert (errors.max_error, errors.worst_row, errors.rms_ratio) == (0.25, 0.0, 1.0)
