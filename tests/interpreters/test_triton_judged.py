"""Triton kernels in the interpreter: a right one passes everything, each planted fault is told by its name and line."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest
from paths import ROOT

import attnbench
from attnbench.case import Case
from attnbench.records.stored_record import stored_record

planted = pytest.importorskip("planted_triton", reason="not run: needs Triton")

CASE = Case.make(batch=2, num_heads=4, num_heads_kv=2, head_dim=32, seqlen_q=45, seqlen_k=75, dtype="bf16", causal=True)


def judged(kernel, case=CASE):
    try:
        (record,) = attnbench.check(kernel, case, interpret=True)
    except AssertionError as error:
        return str(error)
    return record


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_right_kernel_is_right_counted_and_never_timed(dtype, causal):
    case = Case.make(batch=1, num_heads=2, head_dim=64, seqlen_q=100, seqlen_k=100, dtype=dtype, causal=causal)
    record = judged(planted.right, case)
    assert record.status == "ok" and record.measurement is None and not record.warnings, record.reason
    interpreted, counted = record.kernel["interpreted"], record.kernel["counted"]
    assert interpreted["language"] == "triton" and interpreted["defined"] and interpreted["poison"]
    assert {"Tensor.is_cuda", "Tensor.device", "torch.cuda.device"} <= set(interpreted["stand_ins"])
    tiles, heads = 4, 2
    assert counted["tensor_flops"] == heads * tiles * tiles * 2 * (2 * planted.BLOCK * planted.BLOCK * 64)
    rows = heads * 100 * 64 * 2
    assert counted["global_read_bytes"] == rows + 2 * tiles * rows
    assert counted["global_write_bytes"] == rows + heads * 100 * 4
    assert counted["reread"] == tiles
    assert stored_record(record.to_json()) == record


def test_a_compiled_kernel_can_be_launched_again():
    """As flag-gems does, whose wrappers keep what a first launch returned."""
    assert judged(planted.wrong("again")).status == "ok"


def test_what_hardware_leaves_undefined_is_told_with_its_line():
    record = judged(planted.wrong("undefined"))
    assert record.status == "ok", record.reason
    interpreted = record.kernel["interpreted"]
    assert interpreted["defined"] is False
    (place,) = interpreted["undefined"]
    assert place.startswith("planted_triton.py:") and source_line(place).startswith("v = tl.load(v_at, mask=inside")
    assert record.warnings[0].endswith(place)


def source_line(place):
    file, _, line = place.partition(":")
    return (ROOT / "tests" / "interpreters" / file).read_text().splitlines()[int(line) - 1].strip()


@pytest.mark.parametrize(
    ("fault", "words", "line"),
    [
        ("outside", "hazard; attention: a load of", "k = tl.load(k_at"),
        ("outside_scalar", "hazard; attention: a load of 1 of 1 elements lies", "scale = scale + tl.load("),
        ("race", "hazard; attention: a race: program", "tl.store("),
    ],
)
def test_a_hazard_has_the_line_of_the_source(fault, words, line):
    kind, what = words.split("; ")
    told = judged(planted.wrong(fault))
    assert isinstance(told, str) and kind in told and what in told, told
    place = told[told.index("(planted_triton.py") + 1 :].partition(",")[0].partition(")")[0]
    assert source_line(place).startswith(line), source_line(place)


def test_what_the_compiler_refuses_is_told_with_its_line():
    told = judged(planted.wrong("does_not_compile"))
    assert "exception\n  CompileError: Triton's compiler refuses the kernel: " in told, told
    assert "(return tl.dot(rows, rows))" in told and "attnbench." not in told, told


def test_a_tail_that_is_not_masked_is_named():
    told = judged(planted.wrong("tail"), Case.make(batch=1, num_heads=2, head_dim=32, seqlen_q=75, seqlen_k=75))
    assert "incorrect" in told and "past the end count as zeros" in told, told


def test_a_causal_mask_aligned_top_left_is_named():
    told = judged(planted.wrong("top_left"))
    assert "incorrect" in told and "causal is aligned top left, not bottom right" in told, told


def test_a_row_that_nobody_stores_is_not_finite():
    assert "non-finite outputs" in judged(planted.wrong("unwritten"))


def test_every_configuration_of_an_autotuner_runs():
    record = judged(planted.copied(""))
    assert record.status == "ok", record
    assert record.kernel["interpreted"]["configs"] == 2 and not record.warnings
    told = judged(planted.copied("config"))
    assert "hazard" in told and "gives another result" in told, told


def test_a_configuration_that_the_kernel_refuses_is_not_taken():
    record = judged(planted.copied("refused"))
    assert record.status == "ok" and record.kernel["interpreted"]["config"].startswith("BLOCK: 32"), record


def test_what_launches_no_kernel_is_not_judged():
    from unittest import SkipTest

    with pytest.raises(SkipTest, match="it launched no kernel of Triton"):
        attnbench.check(planted.torch_only, CASE, interpret=True)


def test_what_nothing_stands_in_for_is_unsupported():
    from unittest import SkipTest

    with pytest.raises(SkipTest, match="needs a GPU's own software, for which nothing stands in: "):
        attnbench.check(planted.times_itself, CASE, interpret=True)


def test_the_command_line_runs_a_plugin_and_our_own_backend(tmp_path, monkeypatch, capsys):
    plugin = ROOT / "tests" / "interpreters" / "planted_triton.py"
    command = [sys.executable, "-m", "attnbench", "run", "--axis", "seqlen=70", "--axis", "head_dim=32", "--axis",
               "num_heads=2", "--interpret", "--plugin", f"{plugin}:right", "--backend", "right", "--backend", "triton",
               "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert [(record["backend"], record["status"]) for record in records] == [("right", "ok"), ("triton", "ok")]
    assert all(record["kernel"]["interpreted"]["defined"] for record in records)
    assert all(record["measurement"] is None for record in records)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["interpret"] == "auto"
    # NOTE: `repro` names plugins from where the run was made.
    again = [sys.executable, "-m", "attnbench", "repro", str(tmp_path / "run"), records[0]["case_key"], "right"]
    script = tmp_path / "again.py"
    script.write_text(subprocess.run(again, cwd=ROOT, text=True, capture_output=True, check=True).stdout)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:  # in this process, which has imported what the script imports
        runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr().out
    assert not ended.value.code and "max error: " in told and "WRONG" not in told, told
