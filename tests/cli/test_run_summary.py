"""How a run ends: what each kind of record becomes in its table, how that folds, and what failed."""

import io
import subprocess
import sys

import pytest
from fakes.report_runs import LAPTOP, accuracy, failed, incorrect, ok, unsupported, write_run
from rich.console import Console

from attnbench.cli.running.diagnosis import diagnosis, printed_table
from attnbench.cli.running.end import of_two_speeds
from attnbench.cli.running.table import MAX_ROWS, summary
from attnbench.cli.running.terminal import outcome_text
from attnbench.records.measurement import Block

KEY = "bf16-d128-h16-b4-q4096-k4096-full-normal.0"


def printed(records, width=160, environment=None):
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    for part in summary(records, environment, width):
        console.print(part)
    text = console.export_text()
    assert max(map(len, (line.rstrip() for line in text.splitlines()))) <= width
    return text


def row(text, *words):
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, (words, text)
    return lines[0].split()


def test_by_case_where_it_fits():
    text = printed([
        ok("fa3", 1e-3), incorrect("fa2"), unsupported("flex", "no"), failed("triton", "crash", "signal 11"),
        ok("fa3", None, seqlen=8192), ok("fa2", 2e-3, timing={"converged": False}, seqlen=8192),
        ok("fa3", 2e-3, seqlen=1024), ok("fa2", 2e-3, seqlen=1024),
    ])  # fmt: skip
    assert "in every row: batch 4" in text and "median time, TFLOPS, speedup over fa2" in text
    assert row(text, "fa3", " fa2 ") == ["fa3", "fa2"]
    assert row(text, "problem") == ["problem", "seqlen", "time", "TFLOPS", "speedup", "time", "TFLOPS", "triton"]
    assert row(text, "4k") == ["bf16-d128-h16-full", "4k", "1.000", "ms", "550", "incorrect", "crash"]
    assert row(text, "8k") == ["8k", "passed", "2.000", "ms", "†", "1100"]
    assert row(text, "1k") == ["1k", "2.000", "ms", "=", "17.2", "1.00x", "2.000", "ms", "=", "17.2"]
    assert "unsupported: flex in 1 case: no" in text


def test_the_fastest_is_marked_and_the_unit_suits():
    """Rates of a CPU are GFLOPS; times that are too close to call have a mark of their own."""
    records = [ok("naive", 40.0), ok("cpu_flash", 20.0)]
    records += [ok("naive", 4.0, seqlen=64), ok("cpu_flash", 3.99, seqlen=64)]
    text = printed(records, 80)
    assert "median time, GFLOPS, speedup over naive" in text and "* fastest, = too close to call" in text
    assert row(text, "4k")[1:] == ["4k", "40.00", "s", "13.7", "20.00", "s", "*", "27.5", "2.00x"]
    assert row(text, " 64 ") == ["64", "4.000", "s", "=", "0.0336", "3.990", "s", "=", "0.0336", "1.00x"]


def test_an_emulated_kernel_is_never_timed_nor_fastest():
    emulated = [record.__class__(**{**fields(record), "kernel": {"emulated": {"mode": "cpu"}}})
                for record in (ok("hopper_emulated", None), ok("hopper_emulated", None, seqlen=64))]  # fmt: skip
    text = printed([*emulated, ok("naive", 4.0), ok("naive", 4.0, seqlen=64)], 80)
    assert "hopper_emulated: 2 cases passed (emulated, never timed)" in text
    assert text.count("hopper_emulated") == 1 and "speedup" not in text and "*" not in text


def fields(record):
    return {name: getattr(record, name) for name in record.__slots__}


def test_unsupported_backends_are_listed_once():
    records = [ok("naive", 1e-3, seqlen=64 * place) for place in range(1, 9)]
    records += [unsupported("fp8", f"takes e4m3, not {name}", seqlen=64 * place)
                for place, name in zip(range(1, 9), ["bf16"] * 5 + ["fp16"] * 3)]  # fmt: skip
    records += [unsupported(name, "no GPU", seqlen=64) for name in ("fa2", "fa3")]
    text = printed(records, 80)
    assert "unsupported: fp8 in all 8 cases: takes e4m3, not bf16 (and 1 further reason)" in text
    assert "unsupported: fa2, fa3 in 1 case: no GPU" in text and text.count("—") == 0


def alternating(low_s, high_s):
    """A measurement's blocks and flags of a call that is slow every other time."""
    return {"blocks": (Block((low_s, high_s) * 15, 30),), "flags": ("two_speeds",), "converged": False}


def test_both_speeds_of_a_call_that_has_two_are_shown():
    record = ok("fa3", 1e-3, timing=alternating(1e-3, 2e-3))
    assert row(printed([record]), "4k")[3:] == ["1.000", "ms", "or", "2.000", "ms", "550", "or", "275"]
    assert outcome_text(record) == "1.000 ms or 2.000 ms"
    unflagged = ok("fa3", 1e-3, timing={**alternating(1e-3, 2e-3), "flags": ()})
    assert outcome_text(unflagged) == "1.500 ms", "a reader's own opinion of old records changes no number"


def test_measurements_of_two_speeds_are_suspect_and_named():
    two = [ok("fa3", 1e-3, timing=alternating(1e-3, 2e-3), seqlen=64 * index) for index in range(1, 8)]
    lines = of_two_speeds([ok("fa2", 1e-3), unsupported("flex", "no"), *two])
    assert lines[0] == f"fa3 on {two[0].case_key} has two speeds, 1.000 ms and 2.000 ms"
    assert len(lines) == 6 and lines[-1] == "two speeds: 2 more, as the report tells"
    assert of_two_speeds([ok("fa2", 1e-3), *two[:1]]) == lines[:1]


def test_one_row_a_record_for_many_backends():
    text = printed([ok(f"hopper[v{index}]", 1e-3 * (index + 1)) for index in range(6)])
    assert row(text, "hopper[v0]", "ms")[-4:] == ["1.000", "ms", "*", "550"]
    assert row(text, "hopper[v5]", "ms")[-4:] == ["6.000", "ms", "91.6", "0.167x"]


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_narrow_terminal_breaks_no_name(width):
    """By record where cases do not fit, a problem's name above its rows where that does not fit either."""
    lengths = {"inputs": "large_logits", "num_heads_kv": 4}
    records = [ok(name, 1.5e-3, seqlen=seqlen, batch=batch, **lengths)
               for name in ("hopper[pingpong]", "cudnn", "triton", "fa2")
               for seqlen, batch in ((4096, 1), (64, 2))]  # fmt: skip
    text = printed(records, width)
    assert text.count("bf16-d128-h16.4-full-large_logits.0") == 1
    assert text.count("hopper[pingpong]") >= 2


def test_folds_where_there_are_many_records():
    records = [ok(f"b{index % 6}", 1e-3, seqlen=64 * (1 + index // 6)) for index in range(240)]
    records += [incorrect("b0", seqlen=64 * 50), unsupported("b7", "no"), ok("b8", None)]
    text = printed(records)
    assert "243 records, folded: highest TFLOPS" in text
    cells = row(text, "bf16-d128")
    assert cells[0] == "bf16-d128-h16-full" and cells[1] == "42"
    assert "1 failed" in text and "b8: 1 case passed (not timed)" in text
    assert len(text.splitlines()) < 14


def test_the_title_says_what_the_cells_hold():
    assert "median time, TFLOPS" in printed([ok("fa3", 1e-3)]) and "†" not in printed([ok("fa3", 1e-3)])
    loose = {"converged": False}
    some = [ok("fa3", 1e-3), ok("fa3", 1e-3, seqlen=64), ok("fa3", 1e-3, timing=loose, seqlen=128)]
    assert "† did not converge" in printed(some)
    assert "checked, nothing timed" in printed([ok("fa3", None), incorrect("fa2")])
    checked = [ok(f"b{index % 6}", None, seqlen=64 * (1 + index // 6)) for index in range(240)]
    text = printed([*checked, incorrect("b0", seqlen=64 * 50)])
    assert "folded: how many passed" in text and "40 passed, 1 failed" in text and "TFLOPS" not in text


def test_wide_intervals_are_told_once():
    """On a CPU that others share they are the rule: no mark on every row."""
    loose = {"converged": False, "timer": "cpu"}
    records = [ok("naive", 1e-3, timing=loose, seqlen=64 * place) for place in range(1, 9)]
    text = printed(records, 80, {**LAPTOP, "cpu": {"virtual_machine": True}})
    assert "†" not in text and "timed on a shared CPU: 8 of 8 intervals are wider than asked for: ±" in text
    assert "timed on a CPU: 8 of 8 intervals" in printed(records, 80, LAPTOP)
    events = [ok("naive", 1e-3, timing={"converged": False})]
    assert "\n1 of 1 intervals are wider than asked for: ±" in printed(events, 80, LAPTOP)


def test_lengths_that_passed_everywhere_share_a_row():
    records = [record for place in range(1, 60) for record in (
        incorrect("mine", seqlen=place) if place == 40 else ok("mine", None, seqlen=place),
        ok("naive", None, seqlen=place))]  # fmt: skip
    text = printed(records, 80)
    assert row(text, "1 … 39")[-3:] == ["(39", "lengths)", "passed"] and row(text, "41 … 59")[-1] == "passed"
    assert row(text, "incorrect")[0] == "40" and "in every row: batch 4, naive passed" in text


def test_folds_to_dtypes_where_there_are_many_families():
    records = [ok("fa3", 1e-3, num_heads=heads) for heads in range(1, 2 * MAX_ROWS)]
    records += [ok("fa3", 1e-3, accuracy(), dtype="fp16", num_heads=heads) for heads in range(1, MAX_ROWS)]
    text = printed(records)
    assert row(text, "bf16")[1] == str(2 * MAX_ROWS - 1) and row(text, "fp16")[1] == str(MAX_ROWS - 1)
    assert len(text.splitlines()) < 12


def test_the_later_record_counts():
    text = printed([failed("fa3", "oom", "full"), ok("fa3", 1e-3)])
    assert "oom" not in text and "1.000 ms" in text


def test_nothing_recorded_is_no_table():
    assert printed([]).split() == ["checked,", "nothing", "timed"]
    assert "nothing ran" in printed([unsupported("fa3", "no")])


FAILURES = [
    ok("naive", None),
    *(incorrect("mine", "mask: each query sees one key too few", seqlen=seqlen) for seqlen in (512, 64, 128)),
    incorrect("mine", "scale: the softmax scale is 1.05 times what it should be", seqlen=4096),
    ok("mine", None, seqlen=8192),
    failed("triton", "crash", "in phase check: the worker process was killed by SIGSEGV\ntail"),
]


def test_the_end_names_what_failed_the_cause_the_smallest_case_and_the_commands(tmp_path):
    lines = list(diagnosis(FAILURES, tmp_path / "run"))
    run = tmp_path / "run"
    assert lines == [
        "failed: mine, incorrect in 4 of 5 cases",
        "  likely cause: mask: each query sees one key too few (3 cases)",
        "  likely cause: scale: the softmax scale is 1.05 times what it should be (1 case)",
        "  smallest failing case: bf16-d128-h16-b4-q64-k64-full-normal.0",
        "    relative RMSE 0.04, limit 0.003 at batch 0, head 3, row 17",
        f"  again: attnbench repro {run} bf16-d128-h16-b4-q64-k64-full-normal.0 mine > repro.py",
        "failed: triton, crash in 1 of 1 case",
        "  in phase check: the worker process was killed by SIGSEGV",
        f"  smallest failing case: {KEY}",
        f"  again: attnbench repro {run} {KEY} triton > repro.py",
        f"report: attnbench report {run} -o report.md",
    ]
    assert list(diagnosis([], run)) == []
    assert list(diagnosis([ok("naive", None)], run)) == lines[-1:]


def test_the_end_fits_a_narrow_terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "60")
    run = write_run(tmp_path / "a-rather-long-name-of-a-run", FAILURES, LAPTOP)
    lines = list(diagnosis(FAILURES, run.relative_to(tmp_path)))
    assert max(map(len, lines)) <= 60 and any(line.endswith(" \\") for line in lines)
    joined = " ".join(line.removesuffix("\\").strip() for line in lines)
    assert (
        f"attnbench repro {run.name}" in joined and "bf16-d128-h16-b4-q64-k64-full-normal.0 mine > repro.py" in joined
    )
    printed_table(FAILURES, run)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "checked, nothing timed" and max(map(len, shown)) <= 60


def test_many_kinds_of_failures_are_named(tmp_path):
    records = [failed(f"b{place}", "crash", "signal 11") for place in range(6)]
    lines = list(diagnosis(records, tmp_path))
    assert lines[-2] == "failed, too: b4 crash in 1 case, b5 crash in 1 case"


@pytest.mark.parametrize("module", ["pandas", "matplotlib", "torch", "numpy"])
@pytest.mark.parametrize("own", ["terminal", "table", "diagnosis"])
def test_stays_light(module, own):
    code = f"import attnbench.cli.running.{own}, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
