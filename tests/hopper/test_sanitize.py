"""The compute-sanitizer driver: verdicts, resuming and budgets, with the tool replaced by a function."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from paths import ROOT

from attnbench.cli import sanitize as driver
from attnbench.cli.sanitize import (
    FINDINGS_EXIT,
    STEP_TIMEOUT_S,
    SanitizerStep,
    exit_status,
    read_results,
    run_with_timeout,
    verdict,
)
from attnbench.hopper import quantizer
from attnbench.machine.nvml import gpus

TO = torch.Tensor.to
CLEAN = "========= COMPUTE-SANITIZER\n48 launches\n========= ERROR SUMMARY: 0 errors\n"
WANTED = [SanitizerStep(tool, "ws", head_dim, "d1g3st") for tool in ("memcheck", "racecheck") for head_dim in (64, 128)]


class Tool:
    """Stands for compute-sanitizer: answers from a list, remembers the commands."""

    def __init__(self, *answers):
        self.answers, self.commands = list(answers), []

    def __call__(self, command, timeout_s):
        self.commands.append(list(command))
        return self.answers.pop(0) if self.answers else (0, CLEAN)


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, CLEAN, "clean"),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "clean"),
        (FINDINGS_EXIT, "========= Invalid __global__ read\n========= ERROR SUMMARY: 1 error", "findings"),
        (1, "Traceback: KernelError\n========= ERROR SUMMARY: 0 errors", "failed"),
        (None, "", "timeout"),
        (0, "48 launches\n", "not_run"),
        (99, "========= Error: Device not supported. Please refer to the documentation", "not_run"),
        (FINDINGS_EXIT, "========= Internal Sanitizer Error: something", "not_run"),
    ],
)
def test_verdicts(status, output, expected):
    assert verdict(status, output) == expected


def test_all_clean_and_nothing_is_repeated(tmp_path):
    out, tool = tmp_path / "results" / "sanitizer.jsonl", Tool()
    results = driver.sanitize(out, WANTED, Path("/bin/compute-sanitizer"), 1e9, tool)
    assert [result.step for result in results] == WANTED and exit_status(results, WANTED) == 0
    first = tool.commands[0]
    assert first[:5] == ["/bin/compute-sanitizer", "--tool", "memcheck", "--error-exitcode", str(FINDINGS_EXIT)]
    assert first[5:] == [sys.executable, "-P", "-m", "attnbench.cli.sanitize", "--launch", "ws", "64"]
    again = Tool()
    assert driver.sanitize(out, WANTED, Path("/bin/compute-sanitizer"), 1e9, again) == results
    assert again.commands == []


def test_a_rebuilt_library_is_looked_at_again(tmp_path):
    out = tmp_path / "sanitizer.jsonl"
    driver.sanitize(out, WANTED, Path("tool"), 1e9, Tool())
    rebuilt = [SanitizerStep(step.tool, step.schedule, step.head_dim, "an0ther") for step in WANTED]
    tool = Tool()
    driver.sanitize(out, rebuilt, Path("tool"), 1e9, tool)
    assert len(tool.commands) == 4


def test_the_budget_ends_a_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    out, clock = tmp_path / "sanitizer.jsonl", iter(range(0, 10_000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    results = driver.sanitize(out, WANTED, Path("tool"), STEP_TIMEOUT_S + 150, Tool())
    assert 0 < len(results) < len(WANTED)
    assert exit_status(results, WANTED) == 3
    results = driver.sanitize(out, WANTED, Path("tool"), 1e9, Tool())
    assert len(results) == len(WANTED) and exit_status(results, WANTED) == 0
    assert len(list(read_results(out))) == len(WANTED)


def test_findings_are_kept_with_their_words(tmp_path):
    out = tmp_path / "sanitizer.jsonl"
    results = driver.sanitize(out, WANTED, Path("tool"), 1e9, Tool((FINDINGS_EXIT, "========= Race reported")))
    assert (results[0].status, results[0].detail) == ("findings", "========= Race reported")
    assert [result.status for result in results[1:]] == ["clean"] * 3
    assert exit_status(results, WANTED) == 1


def test_a_refusal_ends_the_run_and_is_tried_again_later(tmp_path):
    out, refusing = tmp_path / "sanitizer.jsonl", Tool((1, "Error: Device not supported"))
    results = driver.sanitize(out, WANTED, Path("tool"), 1e9, refusing)
    assert [result.status for result in results] == ["not_run"] and exit_status(results, WANTED) == 3
    assert exit_status(driver.sanitize(out, WANTED, Path("tool"), 1e9, Tool()), WANTED) == 0


def test_a_line_cut_short_is_run_again(tmp_path):
    out = tmp_path / "sanitizer.jsonl"
    driver.sanitize(out, WANTED, Path("tool"), 1e9, Tool())
    text = out.read_text()
    out.write_text(text[: len(text) - 20])
    tool = Tool()
    assert len(driver.sanitize(out, WANTED, Path("tool"), 1e9, tool)) == 4
    assert len(tool.commands) == 1
    assert len(list(read_results(out))) == 4


def test_time_limit_kills_the_whole_family(tmp_path):
    mark = tmp_path / "mark"
    script = f"(sleep 1; touch {mark}) & echo begun; wait"
    assert run_with_timeout(["sh", "-c", script], 0.4) == (None, "begun\n")
    time.sleep(1)
    assert run_with_timeout(["sh", "-c", "echo out; echo err >&2; exit 7"], 10) == (7, "out\nerr\n")
    assert not mark.exists()


@pytest.mark.skipif(bool(gpus()), reason="not run: it is about a machine without a GPU")
def test_without_a_gpu_it_says_not_run():
    command = [sys.executable, "-m", "attnbench.cli.sanitize"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.startswith("compute-sanitizer: not run: no NVIDIA GPU on this machine")


def test_the_quantize_kernel_has_its_steps(monkeypatch):
    variants = [{"head_dim": head_dim} for head_dim in (64, 128, 64, 128)]
    build = SimpleNamespace(variants=variants, digest="d1")
    monkeypatch.setattr(quantizer, "built", lambda: build)
    found = driver.steps(["quantize"])
    assert [(step.tool, step.head_dim) for step in found] == [
        (tool, head_dim) for tool in driver.TOOLS for head_dim in (64, 128)
    ]  # fmt: skip
    assert {(step.schedule, step.digest) for step in found} == {("quantize", "d1")}


def test_the_quantize_kernel_is_launched_by_every_scheme(monkeypatch):
    """On CPU tensors, the launch replaced: what would run under the tool."""
    seen = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *a, **k: tensor if a == ("cuda",) else TO(tensor, *a, **k))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(quantizer, "quantize_on_device", lambda q, k, v, scheme: seen.append((q.dtype, scheme)))
    calls = driver.quantize_all(64)
    assert calls == len(seen) == 2 * len(driver.SCHEMES) * len(driver.SHAPES)
    assert {(scheme.scaling, scheme.block_size, scheme.hadamard) for _, scheme in seen} == set(driver.SCHEMES)
    assert {dtype for dtype, _ in seen} == {torch.float16, torch.bfloat16}
