"""`attnbench.check`: a right function passes, a wrong one raises with the rule, the place and the cause."""

import os
import subprocess
import sys
import unittest

import pytest
import torch
from paths import ROOT

import attnbench
from attnbench.suite.source import SuiteError

SMALL = {"dtype": "bf16", "group": "unequal_lengths"}


def right(q, k, v, *, causal, softmax_scale):
    return _attention(q, k, v, causal, softmax_scale, k.shape[1] - q.shape[1])


def top_left(q, k, v, *, causal, softmax_scale):
    return _attention(q, k, v, causal, softmax_scale, 0)


def _attention(q, k, v, causal, scale, offset):
    ratio = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(ratio, dim=2).float() for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * scale
    if causal:
        last = torch.arange(q.shape[1])[:, None] + offset
        scores = scores.masked_fill(torch.arange(k.shape[1]) > last, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    p = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp().to(q.dtype).float()
    return torch.einsum("bhqk,bkhd->bqhd", p, v).to(q.dtype), lse


def test_a_right_function_passes_and_the_records_come_back():
    records = attnbench.check(right, only=SMALL)
    assert len(records) == 22
    assert all(record.status == "ok" for record in records)


def test_a_wrong_function_is_told_what_where_and_why():
    with pytest.raises(AssertionError) as caught:
        attnbench.check(top_left, only={**SMALL, "causal": True})
    text = str(caught.value)
    assert text.startswith("top_left: ")
    assert "of 11 cases of suite edges failed" in text.splitlines()[0]
    assert "likely cause: mask: causal is aligned top left, not bottom right" in text
    assert "error by head and tile of 64 query rows" in text
    assert "also: bf16-d64-h2-b1-" in text
    causes = [line.partition(": ")[2] for line in text.splitlines() if "likely cause" in line]
    assert len(causes) == len(set(causes)) >= 2, "a cause is told once, with the number of its cases"
    assert text.count("(. worst row of the tile") == 1, "and the signs of error maps are explained once"


def test_a_function_that_raises_fails_with_its_own_words():
    def picky(q, k, v, *, causal, softmax_scale):
        raise RuntimeError("head_dim must be 128")

    with pytest.raises(AssertionError, match="(?s)exception.*head_dim must be 128"):
        attnbench.check(picky, only=SMALL)


def test_a_kernel_that_keeps_its_answers_by_shape_is_wrong():
    kept = {}

    def by_shape(q, k, v, *, causal, softmax_scale):
        key = (q.shape, k.shape, q.dtype, causal, softmax_scale)
        return kept.setdefault(key, right(q, k, v, causal=causal, softmax_scale=softmax_scale))

    with pytest.raises(AssertionError, match="(?s)22 of 22 cases .* it gave the answer of earlier inputs again"):
        attnbench.check(by_shape, only=SMALL)


def test_a_kernel_that_takes_nothing_is_not_right():
    with pytest.raises(AssertionError, match="right: suite edges checked nothing, .* descales"):
        attnbench.check(right, only={"dtype": "e4m3", "group": "p_scale"})


def test_a_backend_object_is_taken_as_it_is():
    from attnbench.backends import builtin

    records = attnbench.check(builtin()["fp8_emulated"], only={"group": "p_scale"})
    assert {record.backend for record in records} == {"fp8_emulated"}


def test_what_a_kernel_raises_is_told_once_for_all_shapes():
    def picky(q, k, v, *, causal, softmax_scale):
        raise RuntimeError(f"seqlen_k {k.shape[1]} is not a multiple of 128")

    with pytest.raises(AssertionError) as caught:
        attnbench.check(picky, only={**SMALL, "causal": True})
    text = str(caught.value)
    assert text.count("is not a multiple") == 1 and "11 cases: exception: RuntimeError: seqlen_k 1023 is not" in text


TINY = """
groups:
  - name: tiny
    axes: {batch: 1, num_heads: 1, head_dim: 16, seqlen_q: 4, seqlen_k: [4, 7], dtype: [bf16, e4m3], causal: true}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def test_a_case_of_a_suite_is_judged_by_itself(tiny):
    square, longer = attnbench.cases(tiny, only={"dtype": "bf16"})
    assert (square.case.seqlen_k, longer.case.seqlen_k) == (4, 7)
    (record,) = attnbench.check(top_left, square)
    assert record.status == "ok" and record.case_key == square.case.key
    with pytest.raises(AssertionError) as caught:
        attnbench.check(top_left, longer)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"top_left: {longer.case.key}: incorrect" and "likely cause: mask" in lines[1]
    (record,) = attnbench.check(right, longer.case)
    assert record.status == "ok", "and so is a case that stands in no suite"
    with pytest.raises(TypeError, match="only= chooses among the cases of a suite"):
        attnbench.check(right, longer, only={"dtype": "bf16"})


def test_a_single_case_that_is_not_taken_is_skipped_not_passed(tiny):
    (first, _) = attnbench.cases(tiny, only={"dtype": "e4m3"})
    with pytest.raises(unittest.SkipTest, match="right: a plugin function gets no descales"):
        attnbench.check(right, first)


TEST_FILE = """
import attnbench
import pytest
from test_testing import right, top_left

@pytest.mark.parametrize("case", attnbench.cases({suite!r}))
def test_right(case):
    attnbench.check(right, case)

@pytest.mark.parametrize("case", attnbench.cases({suite!r}, only={{"dtype": "bf16"}}))
def test_wrong(case):
    def noisy(q, k, v, *, causal, softmax_scale):
        print("keys:", k.shape[1])
        return top_left(q, k, v, causal=causal, softmax_scale=softmax_scale)

    attnbench.check(noisy, case)
"""


def test_pytest_has_one_test_a_case_named_by_its_key(tiny, tmp_path):
    (tmp_path / "test_mine.py").write_text(TEST_FILE.format(suite=tiny))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", tmp_path,
         "-c", "/dev/null", tmp_path / "test_mine.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    keys = [case.case.key for case in attnbench.cases(tiny, only={"dtype": "bf16"})]
    for line in (f"test_right[{keys[0]}] PASSED", f"test_right[{keys[1]}] PASSED", f"test_wrong[{keys[1]}] FAILED"):
        assert line in done.stdout, done.stdout + done.stderr
    assert "a plugin function gets no descales" in done.stdout and "1 failed, 3 passed, 2 skipped" in done.stdout
    assert "keys: 7" in done.stdout and "keys: 4" not in done.stdout, "pytest shows what the failed one printed"


def test_prints_are_below_the_key_of_their_case(tiny, capsys):
    def noisy(q, k, v, *, causal, softmax_scale):
        if k.shape[1] == 7:
            print("seven")
        return right(q, k, v, causal=causal, softmax_scale=softmax_scale)

    attnbench.check(noisy, tiny)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "-- bf16-d16-h1-b1-q4-k7-causal-normal.0" and set(lines[1:]) == {"seven"}


def test_a_suite_that_is_none_is_a_suite_error():
    with pytest.raises(SuiteError, match="no such suite"):
        attnbench.check(right, suite="edgy")
