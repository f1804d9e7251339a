"""The terminal table: what each kind of record becomes, how it folds, and that it stays light."""

import io
import subprocess
import sys

import pytest
from fakes.report_runs import accuracy, failed, incorrect, ok, unsupported
from rich.console import Console

from attnbench.cli.terminal import MAX_ROWS, outcome_text, summary_table
from attnbench.records.measurement import Block


def printed(records, width=160):
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(summary_table(records))
    return console.export_text()


def row(text, *words):
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, (words, text)
    return lines[0].split()


def test_by_case_where_it_fits():
    text = printed([
        ok("fa3", 1e-3), incorrect("fa2"), unsupported("flex", "no"), failed("triton", "crash", "signal 11"),
        ok("fa3", None, seqlen=8192), ok("fa2", 2e-3, timing={"converged": False}, seqlen=8192),
    ])  # fmt: skip
    header = row(text, "problem", "seqlen")
    assert header == ["problem", "seqlen", "batch", "fa3", "fa2", "flex", "triton"]
    first = row(text, "4k")
    assert first[:3] == ["bf16-d128-h16-full", "4k", "4"]
    assert first[3:] == ["1.000", "ms,", "550", "incorrect", "unsupported", "error:", "crash"]
    assert row(text, "8k") == ["8k", "4", "passed", "2.000", "ms,", "1100", "†"]


def alternating(low_s, high_s):
    """A measurement's blocks and flags of a call that is slow every other time."""
    return {"blocks": (Block((low_s, high_s) * 15, 30),), "flags": ("two_speeds",), "converged": False}


def test_both_speeds_of_a_call_that_has_two_are_shown():
    record = ok("fa3", 1e-3, timing=alternating(1e-3, 2e-3))
    assert row(printed([record]), "4k")[3:] == ["1.000", "ms", "or", "2.000", "ms,", "550", "or", "275", "†"]
    assert outcome_text(record) == "1.000 ms or 2.000 ms"
    unflagged = ok("fa3", 1e-3, timing={**alternating(1e-3, 2e-3), "flags": ()})
    assert outcome_text(unflagged) == "1.500 ms", "a reader's own opinion of old records changes no number"


def test_one_row_a_record_for_many_backends():
    text = printed([ok(f"hopper[v{index}]", 1e-3 * (index + 1)) for index in range(6)])
    assert row(text, "hopper[v0]")[-3:] == ["1.000", "ms,", "550"]
    assert row(text, "hopper[v5]")[-3:] == ["6.000", "ms,", "91.6"]


def test_folds_where_there_are_many_records():
    records = [ok(f"b{index % 6}", 1e-3, seqlen=64 * (1 + index // 6)) for index in range(240)]
    records += [incorrect("b0", seqlen=64 * 50), unsupported("b7", "no"), ok("b8", None)]
    text = printed(records)
    assert "243 records, folded" in text
    cells = row(text, "bf16-d128")
    assert cells[0] == "bf16-d128-h16-full" and cells[1] == "42"
    assert "1 failed" in text and cells[-3:] == ["—", "1", "passed"] and "highest TFLOPS" in text
    assert len(text.splitlines()) < 12


def test_the_title_says_what_the_cells_hold():
    assert "median time, TFLOPS" in printed([ok("fa3", 1e-3)]) and "†" not in printed([ok("fa3", 1e-3)])
    assert "TFLOPS (†: did not converge)" in printed([ok("fa3", 1e-3, timing={"converged": False})])
    assert "checked, nothing timed" in printed([ok("fa3", None), incorrect("fa2")])
    checked = [ok(f"b{index % 6}", None, seqlen=64 * (1 + index // 6)) for index in range(240)]
    text = printed([*checked, incorrect("b0", seqlen=64 * 50)])
    assert "folded: how many passed" in text and "40 passed, 1 failed" in text and "TFLOPS" not in text


def test_folds_to_dtypes_where_there_are_many_families():
    records = [ok("fa3", 1e-3, num_heads=heads) for heads in range(1, 2 * MAX_ROWS)]
    records += [ok("fa3", 1e-3, accuracy(), dtype="fp16", num_heads=heads) for heads in range(1, MAX_ROWS)]
    text = printed(records)
    assert row(text, "bf16")[1] == str(2 * MAX_ROWS - 1) and row(text, "fp16")[1] == str(MAX_ROWS - 1)
    assert len(text.splitlines()) < 12


def test_the_later_record_counts():
    text = printed([failed("fa3", "oom", "full"), ok("fa3", 1e-3)])
    assert "oom" not in text and "1.000 ms" in text


def test_nothing_recorded_is_an_empty_table():
    assert "problem" in printed([])


@pytest.mark.parametrize("module", ["pandas", "matplotlib", "torch", "numpy"])
def test_stays_light(module):
    code = f"import attnbench.cli.terminal, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
