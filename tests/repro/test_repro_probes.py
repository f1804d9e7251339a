"""Whatever fails, a script shows it that needs torch and the kernel's file; for 8 bits, attnbench and the backend."""

import subprocess
import sys
from dataclasses import replace

import pytest
from fakes.report_runs import write_run

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.relations import RELATIONS
from attnbench.plugins import load
from attnbench.records.store import StoreError
from attnbench.reference.inputs import make_inputs
from attnbench.repro.script import repro_script
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

KERNEL = """
import torch


def answer(q, k, v, *, causal, softmax_scale):
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * softmax_scale
    if causal:
        last = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        scores = scores.masked_fill(torch.arange(k.shape[1]) > last, -torch.inf)
    p = scores.softmax(dim=-1).to(q.dtype).float()
    return torch.einsum("bhqk,bkhd->bqhd", p, v.float()).to(q.dtype){spoiled}
"""
SPOILED = {
    "right": ("", "nan_v"),
    "hides_nan": (".nan_to_num(nan=0.0)", "nan_v"),
    # Off by less than rounding explains, wherever an output is not a row of v bit for bit.
    "flushes": (".float().mul(1 + 2**-7).to(q.dtype)", "needle"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_the_script_shows_what_the_probe_found(tmp_path, kind):
    spoiled, probe = SPOILED[kind]
    (tmp_path / "kernel.py").write_text(KERNEL.format(spoiled=spoiled))
    spec = f"{tmp_path / 'kernel.py'}:answer"
    fields = {"batch": 1, "seqlen": 70, "num_heads": 2, "head_dim": 64, "causal": True}
    case = Case.make(**fields, inputs=probe) if kind == "right" else Case.make(**fields)
    record = run_trial(
        Problem(case, "cpu", Checks(probes=(probe,)), Timing(), 0, Phases()), load([spec])["answer"], False
    )
    assert record.status == ("ok" if kind == "right" else "incorrect")
    run = write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [spec]})
    script = tmp_path / "repro.py"
    script.write_text(repro_script(run, record.case_key, "answer"))
    assert "import attnbench" not in script.read_text() and "from attnbench" not in script.read_text()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == (0 if kind == "right" else 1), done.stdout + done.stderr
    assert ("WRONG" in done.stdout) == (kind != "right")


# What `out` is made into before it is returned, by the probe that it shows up in: right on the case itself.
ONLY_THERE = {
    "v_small": "out = out.masked_fill(out.abs() < 1e-4, 0.0)",
    "v_large": "out = out.clamp(-100, 100)",
    "half_scale": "out = out if softmax_scale == q.shape[3] ** -0.5 else out * 1.1",
    "permuted": "out = out if float(q[0, 0, 0, 0]) == KNOWN else out * 1.1",
    "gqa_dense": "out = out * 1.1 if q.shape[2] == k.shape[2] else out",
    "strided": "out = out * 1.1 if q.stride(1) < q.stride(2) else out",
    "misaligned": "out = out * 1.1 if q.storage_offset() == 1 else out",
    "far_apart": "out = out * 1.1 if q.stride(1) > 2**20 else out",
    "guarded": "out = out + 0 * beyond(k)",
    "padded": "out = out * 1.1 if k.stride(0) != k.stride(1) * k.shape[1] else out",
    "fresh_inputs": "out = REMEMBERED.setdefault('out', out)",
    "other_stream": "out = out * 1.1 if threading.current_thread() is not threading.main_thread() else out",
    "used_memory": "REMEMBERED['n'] = REMEMBERED.get('n', 0) + 1; out = out * 1.1 if REMEMBERED['n'] == 3 else out",
    "v_ones": "out = out * (1 + 2.0**-6) if bool((v == 1).all()) else out",
    "equal_logits": "out = out * (1 + 2.0**-5) if bool((k == 1).all()) else out",
    "same_sign_v": "out = out * (1 - 2.0**-10 * bool((v > 0).all()))",
    "nan_v": "out = out.nan_to_num(nan=0.0)",
    "broadcast": "out = out * 1.1 if 0 in k.stride() else out",
}
# Probes that are no relation, and posed to 8 bits through the backend.
EIGHT_BIT = ("descale_zero", "fresh_inputs", "used_memory", "lse_merged", "batch_invariant")
PLANTED = """
import threading

import torch

REMEMBERED = {{}}
KNOWN = {known}


def beyond(k):
    if k.untyped_storage().nbytes() <= k.numel() * k.element_size():
        return 0.0
    return k.as_strided((1,), (1,), k.storage_offset() + k.numel()).float()


def planted(q, k, v, *, causal, softmax_scale):
    ratio = q.shape[2] // k.shape[2]
    kk, vv = (x.repeat_interleave(ratio, dim=2).float() for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), kk) * softmax_scale
    if causal:
        last = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        scores = scores.masked_fill(torch.arange(k.shape[1]) > last, -torch.inf)
    p = scores.softmax(dim=-1).to(q.dtype).float()
    out = torch.einsum("bhqk,bkhd->bqhd", p, vv)
    {planted}
    return out.to(q.dtype)
"""
SHAPE = {"batch": 2, "seqlen": 70, "num_heads": 4, "num_heads_kv": 2, "head_dim": 32, "causal": True}


def kernel(planted):
    return PLANTED.format(planted=planted, known=float(make_inputs(Case.make(**SHAPE)).q[0, 0, 0, 0]))


def executed(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["repro.py"])
    with pytest.raises(SystemExit) as caught:
        exec(compile(script, "repro.py", "exec"), {"__name__": "__main__"})
    return caught.value.code, capsys.readouterr().out


def recorded(tmp_path, planted, checks):
    """(record, script) of that kernel."""
    (tmp_path / "kernel.py").write_text(kernel(planted))
    spec = f"{tmp_path / 'kernel.py'}:planted"
    problem = Problem(Case.make(**SHAPE), "cpu", checks, Timing(), 0, Phases())
    record = run_trial(problem, load([spec])["planted"], False)
    run = write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [spec]})
    return record, repro_script(run, record.case_key, "planted")


@pytest.mark.parametrize("probe", ONLY_THERE)
def test_whatever_a_probe_finds_the_script_shows_with_torch_alone(tmp_path, monkeypatch, capsys, probe):
    record, script = recorded(tmp_path, ONLY_THERE[probe], Checks(probes=(probe,), repeats=0))
    assert record.status == "incorrect"
    assert all(check.rule.startswith(f"{probe}: ") for check in record.accuracy.failures), record.reason
    assert "attnbench." not in script and "import attnbench" not in script
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 1, printed
    shown = record.accuracy.failures[0].rule.removeprefix(f"{probe}: ")
    assert any(line.startswith(f"{shown}: ") and "computed" not in line for line in printed.splitlines()), printed


def test_halves_whose_lse_does_not_merge_are_shown_with_torch_alone(tmp_path, monkeypatch, capsys):
    returned = "return out.to(q.dtype), scores.logsumexp(dim=-1) * (1.0 if k.shape[1] == 70 else 1.1)"
    (tmp_path / "kernel.py").write_text(kernel("pass").replace("return out.to(q.dtype)", returned))
    spec = f"{tmp_path / 'kernel.py'}:planted"
    case = Case.make(**{**SHAPE, "causal": False})
    checks = Checks(probes=("lse_merged",), repeats=0)
    record = run_trial(Problem(case, "cpu", checks, Timing(), 0, Phases()), load([spec])["planted"], False)
    assert [check.rule for check in record.accuracy.failures] == ["lse_merged: LSE error"], record.reason
    run = write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [spec]})
    script = repro_script(run, record.case_key, "planted")
    assert "attnbench." not in script and "import attnbench" not in script
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 1 and "LSE error: " in printed and "WRONG" in printed
    right = kernel("pass").replace("return out.to(q.dtype)", returned.replace("1.1", "1.0"))
    (tmp_path / "kernel.py").write_text(right)
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 0, printed


def test_an_answer_kept_by_shape_is_shown_where_it_was_found(tmp_path, monkeypatch, capsys):
    record, script = recorded(tmp_path, ONLY_THERE["fresh_inputs"], Checks())
    assert record.accuracy.failures[0].rule.startswith("fresh_inputs_in_place: ")
    assert "tensor.copy_(numbers)" in script and "import attnbench" not in script
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 1 and "max error: " in printed and "WRONG" in printed
    (tmp_path / "kernel.py").write_text(kernel("pass"))
    assert executed(script, monkeypatch, capsys)[0] == 0


def test_a_key_that_is_not_there_brings_the_nearest_of_all(tmp_path):
    problem = Problem(Case.make(**SHAPE), "cpu", Checks(), Timing(), 0, Phases())
    record = run_trial(problem, builtin()["naive"], False)
    others = [replace(record, case=replace(record.case, batch=batch)) for batch in range(3, 40)]
    run = write_run(tmp_path / "run", [*others, replace(record, case=replace(record.case, dtype="fp16", seed=7))], {})
    with pytest.raises(StoreError, match=r'did you mean "fp16-.*-normal.7"'):
        repro_script(run, record.case_key.replace("bf16", "fp16").replace("normal.0", "normal.8"), "naive")


CACHE = """
import torch

from attnbench.backend import Base, Outputs


class Cached(Base):
    name = "cached"
    stateful = True

    def prepare(self, case, inputs):
        kept = []

        def step(number, q, k, v):
            kept.append((k, v))
            k, v = (torch.cat(parts, dim=1) for parts in zip(*kept))
            k = {kept}
            q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=case.scale, enable_gqa=True)
            return Outputs(out.transpose(1, 2).to(inputs.q.dtype).contiguous())

        return step


BACKENDS = (Cached(),)
"""


def test_a_sequence_of_calls_is_shown_step_by_step(tmp_path, monkeypatch, capsys):
    file = tmp_path / "cache.py"
    file.write_text(CACHE.format(kept="k if number == 0 else (k * 8).round() / 8"))
    case = Case.make(**{**SHAPE, "causal": False}, calls=3)
    record = run_trial(Problem(case, "cpu", Checks(), Timing(), 0, Phases()), load([str(file)])["cached"], False)
    assert record.status == "incorrect"
    run = write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [str(file)]})
    script = repro_script(run, record.case_key, "cached")
    status, printed = executed(script, monkeypatch, capsys)
    steps = printed.split("step ")
    assert status == 1 and [step[0] for step in steps[1:]] == ["0", "1", "2"]
    assert ["WRONG" in step for step in steps[1:]] == [False, True, True], printed
    file.write_text(CACHE.format(kept="k"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "WRONG" not in done.stdout, done.stdout + done.stderr


def test_strides_of_0_of_a_backend_are_shown_with_its_descales(tmp_path, monkeypatch, capsys):
    problem = Problem(Case.make(**SHAPE, dtype="e4m3"), "cpu", Checks(probes=("broadcast",)), Timing(), 0, Phases())
    record = run_trial(problem, builtin()["fp8_emulated"], False)
    assert record.status == "ok"
    failed = replace(record.accuracy.checks[0], rule="broadcast: max error", passed=False, value=1.0, limit=1e-9)
    accuracy = replace(record.accuracy, checks=(failed, *record.accuracy.checks[1:]))
    planted = replace(record, status="incorrect", reason="planted", accuracy=accuracy)
    script = repro_script(write_run(tmp_path / "run", [planted], {"device": "cpu"}), record.case_key, "fp8_emulated")
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 1 and printed.count("max error: ") == 2 and "strides (" in printed


@pytest.mark.parametrize("probe", ["permuted", "far_apart", "fresh_inputs", "other_stream", "v_ones"])
def test_a_kernel_mended_since_passes_the_same_script(tmp_path, monkeypatch, capsys, probe):
    _, script = recorded(tmp_path, ONLY_THERE[probe], Checks(probes=(probe,), repeats=0))
    (tmp_path / "kernel.py").write_text(kernel("pass"))
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 0, printed


def test_bits_that_differ_are_shown(tmp_path, monkeypatch, capsys):
    planted = "out[0, 5, 1, 3] *= 1 + 2.0**-7 * int(torch.randint(0, 2, ()))"
    record, script = recorded(tmp_path, planted, Checks(repeats=12))
    assert "repeats that differ bitwise" in record.reason
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 1 and "repeats that differ bitwise: " in printed


def test_what_a_probe_raised_is_raised_again(tmp_path, monkeypatch):
    record, script = recorded(tmp_path, "assert q.shape[2] != k.shape[2], 'only GQA'", Checks(probes=("gqa_dense",)))
    assert record.status == "error" and "in probe gqa_dense: only GQA" in record.reason
    monkeypatch.setattr(sys, "argv", ["repro.py"])
    with pytest.raises(AssertionError, match="only GQA"):
        exec(compile(script, "repro.py", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    ("probe", "dtype"),
    [*((probe, "e4m3") for probe in (*RELATIONS, *EIGHT_BIT)),
     ("v_large", "e5m2")],
)  # fmt: skip
def test_8_bit_probes_are_shown_through_the_backend(tmp_path, monkeypatch, capsys, probe, dtype):
    """A right backend whose record is made to say that the probe failed: the script poses it, and finds it right."""
    fields = {**SHAPE, "causal": probe != "lse_merged", "scaling": "block", "block_size": 32}
    case = Case.make(**{**fields, "dtype": dtype})
    backend = builtin()["fp8_emulated"]
    record = run_trial(Problem(case, "cpu", Checks(probes=(probe,)), Timing(), 0, Phases()), backend, False)
    assert record.status == "ok", record.reason
    checks = tuple(
        replace(check, value=check.limit + 1, passed=False) if check.rule.startswith(f"{probe}: ") else check
        for check in record.accuracy.checks
    )
    record = replace(record, status="incorrect", reason="made so", accuracy=replace(record.accuracy, checks=checks))
    run = write_run(tmp_path / "run", [record], {"device": "cpu"})
    script = repro_script(run, record.case_key, "fp8_emulated")
    status, printed = executed(script, monkeypatch, capsys)
    assert status == 0, printed
    asked = {
        "lse_merged": "halves(*made(case, q, k, v))",
        "descale_zero": "q_descale * 0",
        "fresh_inputs": "drawn(2)",
        "used_memory": "in_used_memory(got)",
        "batch_invariant": "batch_checks(*made(case, q, k, v), backend, called)",
    }
    assert asked.get(probe, f"RELATIONS[{probe!r}]") in script or "v_descale * 0" in script


@pytest.mark.parametrize("rounds", [True, False], ids=["rounds", "mended"])
def test_an_error_within_rounding_is_shown_by_its_pattern(tmp_path, monkeypatch, capsys, rounds):
    """Scores in bf16, by a formulation of its own, with torch alone; and that a mended kernel makes no such error."""
    text = kernel("pass")
    rounded = text.replace("* softmax_scale", "* softmax_scale\n    scores = scores.bfloat16().float()")
    (tmp_path / "kernel.py").write_text(rounded)
    spec = f"{tmp_path / 'kernel.py'}:planted"
    case = Case.make(batch=1, seqlen_q=128, seqlen_k=1024, num_heads=2, head_dim=64)
    record = run_trial(Problem(case, "cpu", Checks(repeats=0), Timing(), 0, Phases()), load([spec])["planted"], False)
    assert "error as of scores in 16 bits" in record.reason
    script = repro_script(
        write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [spec]}), case.key, "planted"
    )
    assert "attnbench." not in script and "import attnbench" not in script
    (tmp_path / "kernel.py").write_text(rounded if rounds else text)
    status, printed = executed(script, monkeypatch, capsys)
    shown = next(line for line in printed.splitlines() if line.startswith("error as of scores in 16 bits"))
    assert status == int(rounds) and ("WRONG" in shown) == rounds, printed
