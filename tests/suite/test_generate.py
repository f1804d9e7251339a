"""`--generate N`: the same cases for the same seed, legal, small, and where tails are."""

import itertools

import pytest

from attnbench.case import forward_flops
from attnbench.settings import Checks
from attnbench.suite.generate import MAX_FLOPS, TILES, Draw
from attnbench.suite.load import load_suite, parse_suite, with_generated, with_overrides
from attnbench.suite.source import SuiteError
from attnbench.suite.suite import parse_only

PINNED = [
    "fp16-d16-h3.1-b1-q192-k192-causal-outliers.0",
    "bf16-d32-h3-b3-q385-k385-causal-normal.0",
    "fp16-d80-h1-b3-q63-k385-causal-normal.0-mask_alignment=top_left",
]
MANY = [job.case for job in with_generated(None, 400, 1).jobs()]


def keys(suite):
    return [key for _, key in suite.kept_keys()]


def test_the_same_seed_draws_the_same_cases():
    first = keys(with_generated(None, 30, 7))
    assert first == keys(with_generated(None, 30, 7)) and first[:10] == keys(with_generated(None, 10, 7))
    assert not set(first) & set(keys(with_generated(None, 30, 8)))
    # A later version must draw these too, or a stored command poses other cases.
    assert first[:3] == PINNED


def test_many_differ_and_lie_where_kernels_fail():
    assert len({case.key for case in MANY}) == 400 and all(forward_flops(case) <= MAX_FLOPS for case in MANY)
    for name, values in {
        "dtype": {"fp16", "bf16", "fp32", "e4m3"}, "causal": {True, False},
        "mask_alignment": {"bottom_right", "top_left"}, "hadamard": {True, False},
        "scaling": {"head", "tensor", "token", "block"},
    }.items():  # fmt: skip
        assert {getattr(case, name) for case in MANY} == values
    lengths = {case.seqlen_k for case in MANY}
    assert all({tile - 1, tile, tile + 1} & lengths for tile in TILES) and min(lengths) <= 8
    assert {1, 2, 3, 4, 8} <= {case.num_heads // case.num_heads_kv for case in MANY}
    assert any(case.seqlen_q > case.seqlen_k and case.causal for case in MANY)  # rows that see no key
    assert any(case.head_dim_v != case.head_dim for case in MANY) and len({case.inputs for case in MANY}) > 4


def test_they_are_stored_and_read_back():
    for base in (None, load_suite("quick")):
        suite = with_generated(base, 25, 3)
        again = parse_suite(suite.to_yaml(), "suite.yaml")
        assert again.jobs() == suite.jobs() and parse_suite(suite.to_yaml(complete=False), "x").jobs() == suite.jobs()
    jobs = suite.jobs()
    made = [job for job in jobs if job.group == "generated"]
    assert len(made) == 25 and jobs[: len(jobs) - 25] == load_suite("quick").jobs()
    assert not any(job.time for job in made) and all(job.checks == Checks() for job in made)


def test_only_holds_of_what_is_drawn():
    only = (parse_only("dtype=bf16"), parse_only("causal=true"))
    suite = with_overrides(with_generated(load_suite("quick"), 20, 3, only), only=only)
    made = [job.case for job in suite.jobs() if job.group == "generated"]
    assert len(made) == 20 and {(case.dtype, case.causal) for case in made} == {("bf16", True)}


def test_mistakes_are_told():
    with pytest.raises(SuiteError, match="no case that can be drawn"):
        with_generated(None, 5, 1, (parse_only("head_dim=333"),))
    with pytest.raises(SuiteError, match='has a group "generated" already'):
        with_generated(with_generated(load_suite("quick"), 2, 1), 2, 1)


def test_draws_stay_within_their_bounds():
    draw = Draw(0)
    assert {draw.between(1, 3) for _ in range(100)} == {1, 2, 3}
    assert {draw.one_of("ab") for _ in range(100)} == set("ab")
    assert 20 < sum(itertools.islice((draw.chance(0.3) for _ in itertools.count()), 100)) < 40
