"""Bitwise repeats: the first difference is named, wherever the second call runs."""

import json

import pytest
import torch

from attnbench.backend import Outputs
from attnbench.case import Case
from attnbench.correctness.determinism import first_difference, pressure_check, repeat_check, stream_check
from attnbench.reference.inputs import make_inputs
from attnbench.run.runner import Request, run_suite
from attnbench.selftest.bugs.outputs import Nondeterministic
from attnbench.selftest.forward import TiledForward
from attnbench.suite.load import parse_suite

CASE = Case.make(batch=1, seqlen=200, num_heads=2, head_dim=32, causal=True)
SUITE = """
groups: [{name: a, time: false, axes: {batch: 1, seqlen: 100, num_heads: 2, head_dim: 32}}]
checks: {processes: 2, repeats: 0}
"""
PLUGIN = """
from pathlib import Path

import torch

MARK = Path(__file__).with_suffix(".seen")
FIRST = not MARK.exists()  # in this process; the next one finds the mark
MARK.touch()


def same(q, k, v, *, causal, softmax_scale):
    p = (torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * softmax_scale).softmax(dim=-1).to(q.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", p.float(), v.float()).to(q.dtype)



def by_process(q, k, v, *, causal, softmax_scale):
    out = same(q, k, v, causal=causal, softmax_scale=softmax_scale)
    if not FIRST:
        out[0, 7, 1, 3] *= 1 + 2.0**-7
    return out
"""


class Progress:
    def begin(self, records, taken, todo): ...
    def phase(self, job, backend, phase): ...
    def record(self, record): ...
    def end(self): ...


def answered():
    inputs = make_inputs(CASE)
    return inputs, TiledForward().prepare(CASE, inputs)()


def test_the_first_difference_is_named_with_both_values():
    _, outputs = answered()
    other = Outputs(outputs.out.clone(), outputs.lse.clone())
    assert first_difference(outputs, other) == ""
    other.lse[0, 1, 9] += 1e-3
    assert first_difference(outputs, other).startswith("lse, batch 0, head 1, row 9: ")
    other.out[0, 5, 1, 2] = 7.0
    text = first_difference(outputs, other)
    assert text.startswith("out, batch 0, row 5, head 1, column 2: ") and " and 7, 1 in all" in text


def test_nan_equals_nan_and_minus_zero_is_not_zero():
    a = Outputs(torch.tensor([[[[float("nan"), 0.0]]]]))
    assert first_difference(a, Outputs(a.out.clone())) == ""
    assert "column 1" in first_difference(a, Outputs(torch.tensor([[[[float("nan"), -0.0]]]])))


@pytest.mark.parametrize("check", [stream_check, pressure_check])
def test_a_right_kernel_repeats_and_a_restless_one_is_caught(check):
    inputs, outputs = answered()
    assert check(CASE, TiledForward(), inputs, outputs).passed
    torch.manual_seed(0)
    results = [check(CASE, Nondeterministic(), inputs, Nondeterministic().prepare(CASE, inputs)()) for _ in range(6)]
    assert not all(result.passed for result in results)
    assert "out, batch 0" in next(result.where for result in results if not result.passed)


def test_repeats_are_counted():
    inputs, outputs = answered()
    torch.manual_seed(0)
    check, _ = repeat_check(CASE, Nondeterministic(), inputs, outputs, 8)
    assert 0 < check.value <= 8 and not check.passed


def test_an_error_on_the_other_thread_is_raised_here():
    class Fails(TiledForward):
        def prepare(self, case, inputs):
            def call():
                raise ValueError("not on this thread")

            return call

    inputs, outputs = answered()
    with pytest.raises(ValueError, match="not on this thread"):
        stream_check(CASE, Fails(), inputs, outputs)


@pytest.mark.parametrize(("name", "status"), [("same", 0), ("by_process", 1)])
def test_fresh_processes_must_agree(tmp_path, name, status):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    suite = parse_suite(f"backends: [{name}]" + SUITE, "x.yaml")
    request = Request(suite, "cpu", tmp_path / "run", Progress(), plugins=(f"{tmp_path / 'plugin.py'}:{name}",))
    outcome = run_suite(request)
    assert outcome.exit_status == status, [record.reason for record in outcome.records]
    (line,) = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    rules = {check["rule"]: check["where"] for check in json.loads(line)["accuracy"]["checks"]}
    where = rules["outputs that differ between processes"]
    assert (where == "") == (status == 0)
    if status:
        assert where.startswith("out, batch 0, row 7, head 1, column 3: ")
