"""Cases: keys that never change or clash, mistakes with a way out, attended pairs by counting."""

import copy
import dataclasses
import itertools
import pickle

import pytest

from attnbench.case import (
    ALWAYS_STORED,
    DEFAULTS,
    DTYPES,
    FIELDS,
    FP8_DTYPES,
    FURTHER_FIELDS,
    MASK_ALIGNMENTS,
    MAX_HEAD_DIM,
    MAX_SIZE,
    RESERVED,
    SCALINGS,
    Case,
    CaseError,
    attended_pairs,
    forward_flops,
)
from attnbench.suite.load import parse_suite

PROBLEM = {"batch": 4, "seqlen": 4096, "num_heads": 16, "head_dim": 128}


def make(**fields):
    return Case.make(**{**PROBLEM, **fields})


# Records of every past run hold these. A change here breaks `--resume` and every comparison with old runs.
GOLDEN_KEYS = (
    ({"causal": True}, "bf16-d128-h16-b4-q4096-k4096-causal-normal.0"),
    ({}, "bf16-d128-h16-b4-q4096-k4096-full-normal.0"),
    ({"num_heads_kv": 16, "head_dim_v": 128}, "bf16-d128-h16-b4-q4096-k4096-full-normal.0"),
    ({"num_heads_kv": 4}, "bf16-d128-h16.4-b4-q4096-k4096-full-normal.0"),
    ({"head_dim": 192, "head_dim_v": 128}, "bf16-d192.128-h16-b4-q4096-k4096-full-normal.0"),
    ({"dtype": "fp16", "seqlen_q": 1, "seqlen_k": 7}, "fp16-d128-h16-b4-q1-k7-full-normal.0"),
    ({"seqlen": 512, "seqlen_k": 1024}, "bf16-d128-h16-b4-q512-k1024-full-normal.0"),
    ({"inputs": "outliers", "seed": 3}, "bf16-d128-h16-b4-q4096-k4096-full-outliers.3"),
    ({"softmax_scale": 0.1}, "bf16-d128-h16-b4-q4096-k4096-full-normal.0-softmax_scale=0.1"),
    ({"softmax_scale": 2.0}, "bf16-d128-h16-b4-q4096-k4096-full-normal.0-softmax_scale=2"),
    ({"softmax_scale": 128**-0.5}, "bf16-d128-h16-b4-q4096-k4096-full-normal.0"),
    ({"dtype": "e4m3"}, "e4m3-d128-h16-b4-q4096-k4096-full-normal.0"),
    (
        {"dtype": "e4m3", "scaling": "block", "block_size": 64, "hadamard": True, "p_scale": 1},
        "e4m3-d128-h16-b4-q4096-k4096-full-normal.0-scaling=block-block_size=64-hadamard=on-p_scale=1",
    ),
    ({"dtype": "e5m2", "scaling": "token"}, "e5m2-d128-h16-b4-q4096-k4096-full-normal.0-scaling=token"),
    ({"dtype": "e4m3", "p_scale": 256.0}, "e4m3-d128-h16-b4-q4096-k4096-full-normal.0"),
    ({"dtype": "e4m3", "p_scale": 0.5}, "e4m3-d128-h16-b4-q4096-k4096-full-normal.0-p_scale=0.5"),
    ({"dtype": "fp32", "kv_dtype": "bf16"}, "fp32-d128-h16-b4-q4096-k4096-full-normal.0-kv_dtype=bf16"),
    ({"dtype": "fp32", "kv_dtype": "fp32"}, "fp32-d128-h16-b4-q4096-k4096-full-normal.0"),
    (
        {"causal": True, "softmax_scale": 1, "mask_alignment": "top_left"},
        "bf16-d128-h16-b4-q4096-k4096-causal-normal.0-softmax_scale=1-mask_alignment=top_left",
    ),
)


@pytest.mark.parametrize(("fields", "key"), GOLDEN_KEYS, ids=[key for _, key in GOLDEN_KEYS])
def test_keys_are_stable(fields, key):
    assert make(**fields).key == key


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_field_at_its_default_does_not_change_the_key(name):
    dtype = "bf16" if name == "dtype" else "e4m3"
    explicit = {**{"dtype": dtype}, name: DEFAULTS[name]}
    assert make(**explicit).key == make(dtype=dtype).key


def test_different_problems_have_different_keys():
    axes = {
        "batch": (1, 11), "seqlen_q": (1, 11), "seqlen_k": (1, 11), "num_heads": (4, 8), "num_heads_kv": (2, 4),
        "head_dim": (64, 128), "head_dim_v": (64, 128), "causal": (False, True), "inputs": ("normal", "sink"),
        "seed": (0, 1), "softmax_scale": (None, 0.1, 0.1 + 2**-50),
    }  # fmt: skip
    cases = {
        Case.make(**dict(zip(axes, values)), dtype=dtype)
        for values in itertools.product(*axes.values())
        for dtype in ("fp16", "bf16")
    }
    assert len({case.key for case in cases}) == len(cases) == 2**11 * 3

    fp8 = {
        "dtype": FP8_DTYPES, "scaling": SCALINGS, "block_size": (64, 128), "hadamard": (False, True),
        "p_scale": (1, 256, 256.5),
    }  # fmt: skip
    cases = {make(**dict(zip(fp8, values))) for values in itertools.product(*fp8.values())}
    assert len({case.key for case in cases}) == len(cases) == 120


def test_every_case_comes_back_from_its_dict():
    for fields, _ in GOLDEN_KEYS:
        case = make(**fields)
        assert Case.make(**case.to_dict()) == case
        further = [name for name in FURTHER_FIELDS if getattr(case, name) != DEFAULTS[name]]
        assert list(case.to_dict()) == [name for name in FIELDS if name in ALWAYS_STORED or name in further]


def test_a_factor_is_a_float_however_it_is_written():
    case = make(dtype="e4m3", softmax_scale=1, p_scale=2)
    assert [type(x) for x in (case.softmax_scale, case.scale, case.p_scale)] == [float] * 3
    assert case == make(dtype="e4m3", softmax_scale=1.0, p_scale=2.0) and type(make().p_scale) is float
    text = "groups:\n  - {name: g, axes: {batch: 1, num_heads: 1, head_dim: 8, seqlen: 8, softmax_scale: [1, 4.0]}}\n"
    assert [type(job.case.scale) for job in parse_suite(text, "x.yaml").jobs()] == [float, float]


def test_scale_is_the_default_or_what_was_asked():
    assert make().scale == 128**-0.5
    assert make(softmax_scale=0.25).scale == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": None}, '"batch" is required and missing'),
        ({"batch": 0}, "batch must be between 1 and"),
        ({"seqlen": -1}, "seqlen_q must be between 1 and"),
        ({"seqlen_k": MAX_SIZE + 1}, f"seqlen_k must be between 1 and {MAX_SIZE}"),
        ({"num_heads": 2.0}, "num_heads must be a whole number, not 2.0"),
        ({"num_heads": True}, "num_heads must be a whole number, not True"),
        ({"head_dim": "128"}, "head_dim must be a whole number, not '128'"),
        ({"head_dim": MAX_HEAD_DIM + 1}, f"head_dim {MAX_HEAD_DIM + 1} is above {MAX_HEAD_DIM}"),
        ({"head_dim_v": MAX_HEAD_DIM + 1}, f"head_dim_v {MAX_HEAD_DIM + 1} is above {MAX_HEAD_DIM}"),
        ({"num_heads_kv": 3}, "num_heads 16 is not a multiple of num_heads_kv 3"),
        ({"num_heads_kv": 32}, "num_heads 16 is not a multiple of num_heads_kv 32"),
        ({"dtype": "fp64"}, f"dtype must be one of {', '.join(DTYPES)}, not 'fp64'"),
        ({"kv_dtype": "fp16"}, "kv_dtype must be as dtype, or fp16 or bf16 beside fp32, not 'fp16' beside bf16"),
        ({"dtype": "fp32", "kv_dtype": "e4m3"}, "kv_dtype must be as dtype, or fp16 or bf16 beside fp32"),
        ({"mask_alignment": "lower_right"}, "mask_alignment must be bottom_right or top_left, not 'lower_right'"),
        ({"dtype": "e4m3", "scaling": "row"}, f"scaling must be one of {', '.join(SCALINGS)}, not 'row'"),
        ({"causal": 1}, "causal must be true or false, not 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"inputs": "no-name"}, "inputs must be the name of a distribution"),
        ({"softmax_scale": 0}, "softmax_scale must be a positive number"),
        ({"softmax_scale": float("nan")}, "softmax_scale must be a positive number"),
        ({"dtype": "e4m3", "p_scale": float("inf")}, "p_scale must be a positive number"),
        ({"scaling": "block"}, "scaling applies to dtype e4m3 and e5m2 only, not to bf16"),
        ({"hadamard": True}, "hadamard applies to dtype e4m3 and e5m2 only"),
        ({"dtype": "e4m3", "hadamard": True, "head_dim": 96}, "power of two, not 96"),
        ({"heads": 4}, 'unknown field "heads"; the fields are batch,'),
    ],
)
def test_what_cannot_be_a_case_says_why(fields, message):
    with pytest.raises(CaseError) as caught:
        make(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_fields_are_refused(name):
    with pytest.raises(CaseError, match=f'"{name}" is reserved for a later version'):
        make(**{name: 1})


@pytest.mark.parametrize("alignment", MASK_ALIGNMENTS)
@pytest.mark.parametrize("causal", [False, True])
def test_attended_pairs_count_every_visible_key(causal, alignment):
    for seqlen_q, seqlen_k in itertools.product((1, 2, 3, 4, 7, 8, 13, 31), repeat=2):
        corner = {"bottom_right": seqlen_k - seqlen_q, "top_left": 0}[alignment]
        counted = sum(not causal or key <= row + corner for row in range(seqlen_q) for key in range(seqlen_k))
        assert attended_pairs(seqlen_q, seqlen_k, causal, alignment) == counted, (seqlen_q, seqlen_k)
        case = make(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal, mask_alignment=alignment)
        assert forward_flops(case) == counted * 16 * 4 * 2 * 256 and (not causal or case.diagonal == corner)


def test_a_known_hash_is_in_no_copy():
    """Hashes of strings differ from process to process, so one that came along would be wrong there."""
    case, same, other = make(), make(), make(seed=1)
    assert hash(case) == hash(case) == hash(same) and {case: 1}[same] == 1 and other not in {case}
    for twin in (pickle.loads(pickle.dumps(case)), copy.deepcopy(case), dataclasses.replace(case)):
        assert not hasattr(twin, "_hash") and twin == case and hash(twin) == hash(case)
    assert dataclasses.replace(case, seed=1) in {other}
