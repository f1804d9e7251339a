"""benchmarks/quantize_kernel.py with the GPU replaced by made-up times: what it counts, what it calls missed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from paths import ROOT

from attnbench.backends.hopper_fp8 import HopperFp8
from attnbench.machine.nvml import gpus
from attnbench.reference.inputs import drawn_inputs

SCRIPT = ROOT / "benchmarks" / "quantize_kernel.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("quantize_kernel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bytes_that_must_move(benchmark):
    case = benchmark.case_of(128)
    assert (case.seqlen_q, case.num_heads) == (16384, 16)
    assert benchmark.moved_bytes(case) == 3 * 3 * 16384 * 2048


@pytest.mark.parametrize(
    ("quantize_us", "attention_us", "hadamard", "missed"),
    [(100, 4000, True, 0), (100, 3000, True, 1), (130, 9000, True, 1), (130, 4000, True, 2), (130, 4000, False, 0)],
)
def test_targets(benchmark, monkeypatch, capsys, quantize_us, attention_us, hadamard, missed):
    case = benchmark.case_of(128, scaling="block", hadamard=hadamard)
    times_us = {"prep": quantize_us, "call": attention_us}
    monkeypatch.setattr(HopperFp8, "prep_call", lambda self, case, inputs: benchmark.PrepCall("", "prep"))
    monkeypatch.setattr(HopperFp8, "prepare", lambda self, case, inputs: "call")
    monkeypatch.setattr(benchmark, "median_s", lambda call: times_us[call] * 1e-6)
    small = benchmark.Case.make(batch=1, seqlen=8, num_heads=1, head_dim=8, dtype="e4m3")
    monkeypatch.setattr("attnbench.reference.inputs.drawn_inputs", lambda case, device: drawn_inputs(small))
    copy = 3 * 3 * 16384 * 2048 / 120e-6 / 0.8  # 80 % of copy is reached in 120 us
    assert benchmark.report(case, copy) == missed
    printed = capsys.readouterr().out
    assert f"{case.key}: {quantize_us:.1f} us" in printed and f"{quantize_us / attention_us:.1%} of it" in printed


@pytest.mark.skipif(bool(gpus()), reason="not run: it is about a machine without a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    assert done.stdout.startswith("quantize kernel: not run: no NVIDIA GPU on this machine")
