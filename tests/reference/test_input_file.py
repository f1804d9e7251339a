"""q, k, v from the user's own file: judged as any inputs, and every bad file is one clear line."""

import os
import subprocess
import sys

import pytest
import torch
from fakes.report_runs import write_run
from paths import ROOT
from safetensors.torch import save_file

from attnbench.backends import builtin
from attnbench.case import Case, CaseError
from attnbench.reference.inputs import make_inputs
from attnbench.repro.script import repro_script
from attnbench.settings import Checks, Timing
from attnbench.suite.load import parse_suite
from attnbench.suite.source import SuiteError
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

SUITE = """groups:
  - name: mine
    axes:
      {batch: 1, seqlen_q: 20, seqlen_k: 30, num_heads: 4, num_heads_kv: 2, head_dim: 16, inputs: mine.safetensors,
       dtype: %s}
"""


@pytest.fixture
def tensors(tmp_path, monkeypatch):
    """Writes q, k, v, some of them replaced, as mine.safetensors into the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    good = {"q": torch.randn(1, 20, 4, 16), "k": torch.randn(1, 30, 2, 16), "v": torch.randn(1, 30, 2, 16).bfloat16()}

    def write(**changes):
        held = {name: tensor for name, tensor in {**good, **changes}.items() if tensor is not None}
        save_file(held, "mine.safetensors")
        return held

    return write


def load(dtype="bf16"):
    return parse_suite(SUITE % dtype, "x.yaml").jobs()[0].case


@pytest.mark.parametrize(("dtype", "backend"), [("fp16", "naive"), ("e4m3", "fp8_emulated")])
def test_the_files_numbers_are_what_is_judged(tensors, dtype, backend):
    held, case = tensors(), load(dtype)
    inputs = make_inputs(case)
    assert torch.equal(inputs.q, held["q"].to(inputs.q.dtype))
    assert not torch.equal(make_inputs(case, input_set=1).v, inputs.v)
    record = run_trial(Problem(case, "cpu", Checks(), Timing(), 0, Phases()), builtin()[backend], timed=False)
    assert record.status == "ok", record.reason
    assert "-mine.safetensors.0" in record.case_key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": None}, "has no tensor k; it holds q, v; name them q, k, v"),
        ({"v": torch.zeros(1, 31, 2, 16)}, r"v has shape \(1, 31, 2, 16\); case .* wants \(1, 30, 2, 16\)"),
        ({"q": torch.zeros(20, 4, 16)}, r"q has shape \(20, 4, 16\)"),
        ({"q": torch.zeros(1, 20, 4, 16, dtype=torch.int32)}, "q is I32; it must be one of F16, BF16, F32, F64"),
    ],
    ids=["name", "shape", "dimensions", "dtype"],
)
def test_a_bad_header_is_one_line_when_the_suite_is_loaded(tensors, changes, said):
    tensors(**changes)
    with pytest.raises(SuiteError, match=said) as caught:
        load()
    assert str(caught.value).startswith("x.yaml:2: ") and "\n" not in str(caught.value)


def test_no_file_and_no_safetensors_are_one_line(tensors, tmp_path):
    with pytest.raises(SuiteError, match="inputs mine.safetensors: there is no such file"):
        load()
    (tmp_path / "mine.safetensors").write_bytes(b"not one")
    with pytest.raises(SuiteError, match="it is no safetensors file: "):
        load()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_one_line_when_the_suite_is_loaded(tensors, dtype, value):
    bad = torch.full((1, 30, 2, 16), 65504.0).to(dtype)
    tensors(k=bad)
    load()
    bad[0, 7, 1, 3] = bad[0, 29, 1, 15] = value
    tensors(k=bad)
    with pytest.raises(SuiteError, match=r"k has 2 values that are not finite, the first at \[0, 7, 1, 3\]") as caught:
        load()
    assert str(caught.value).startswith("x.yaml:2: ") and "\n" not in str(caught.value)


def test_a_file_that_goes_bad_meanwhile_is_one_line_in_the_record(tensors):
    tensors()
    case = load()
    bad = torch.randn(1, 30, 2, 16)
    bad[0, 7, 1, 3] = float("nan")
    tensors(k=bad)
    record = run_trial(Problem(case, "cpu", Checks(), Timing(), 0, Phases()), builtin()["naive"], timed=False)
    assert (record.status, record.kind) == ("error", "exception")
    assert "inputs mine.safetensors: k has 1 values that are not finite, the first at [0, 7, 1, 3]" in record.reason
    assert "\n" not in record.reason


@pytest.mark.parametrize("name", ["a b.safetensors", "x=y.safetensors", ".safetensors.txt", "mine.pt"])
def test_other_names_are_refused(name):
    with pytest.raises(CaseError, match="name of a distribution or of a .safetensors file"):
        Case.make(batch=1, seqlen=8, num_heads=1, head_dim=8, inputs=name)


def test_repro_reads_the_file_too(tensors, tmp_path):
    tensors()
    record = run_trial(Problem(load(), "cpu", Checks(), Timing(), 0, Phases()), builtin()["naive"], timed=False)
    run = write_run(tmp_path / "run", [record], {"device": "cpu"})
    (tmp_path / "repro.py").write_text(repro_script(run, record.case_key, "naive"))
    done = subprocess.run([sys.executable, "repro.py"], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
