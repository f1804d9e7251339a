"""The accuracy lab's part of a report, from hand-made records: every figure is found where it belongs."""

import pytest
from report_runs import accuracy, ok, write_run

from attnbench.report import write_report

PAPER = {"num_heads": 1, "batch": 1, "inputs": "outliers", "seqlen": 8192}


def e4m3(rmse, seed=0, backend="fp8_emulated", **fields):
    values = accuracy(rmse_drawn=rmse, e1=0.02, e1_emulated=0.019, e2=0.04, e3=0.05)
    return ok(backend, None, values=values, dtype="e4m3", seed=seed, **{**PAPER, **fields})


def fp16(rmse, backend):
    return ok(backend, None, values=accuracy(rmse_drawn=rmse), dtype="fp16", **PAPER)


def text_of(tmp_path, records):
    run = write_run(tmp_path / "run", records)
    return write_report([run], tmp_path / "report.md").read_text(), tmp_path / "report_plots"


def row(text, words):
    line = next(line for line in text.splitlines() if line.startswith(f"| {words} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_papers_table_has_six_rows_with_ours_beside(tmp_path):
    records = [fp16(3.0e-4, "fp16_standard"), fp16(1.8e-4, "naive")]
    for seed, factor in enumerate((1.0, 1.1)):
        records += [
            e4m3(2.4e-2 * factor, seed, "fp8_baseline", scaling="tensor"),
            e4m3(8.0e-3, seed, scaling="block", hadamard=True),
            e4m3(9.0e-3, seed, scaling="tensor", hadamard=True),
        ]
    text, _ = text_of(tmp_path, records)
    assert row(text, "FP16 standard") == ["FP16 standard", "`fp16_standard`", "3.2e-04", "3.00e-04", "3.00e-04", "3.00e-04", "1"]
    assert row(text, "FP8 baseline")[2:] == ["2.4e-02", "2.52e-02", "2.40e-02", "2.64e-02", "2"]
    assert row(text, "FP8 FlashAttention-3")[2:] == ["9.1e-03", "8.00e-03", "8.00e-03", "8.00e-03", "2"]
    assert row(text, "without incoherent processing")[3:] == ["not run", "—", "—", "0"]
    assert "FP8 baseline over FlashAttention-3: 3.15 (3.00 to 3.30 over 2 seeds); the paper: 2.6" in text
    assert "It does not state seqlen, batch, heads, mask, softmax scale, seed" in text


def test_schemes_against_inputs_are_a_table_and_a_map(tmp_path):
    records = []
    for number, inputs in enumerate(("normal", "outliers")):
        for scaling in ("tensor", "block"):
            for seed in (0, 1):
                e3 = 0.01 * (1 + number) + 0.002 * seed
                values = accuracy(e1=0.02, e1_emulated=0.019, e2=0.04, e3=e3)
                records.append(ok("fp8_emulated", None, values=values, dtype="e4m3", inputs=inputs, scaling=scaling, seed=seed))
    text, plots = text_of(tmp_path, records)
    assert row(text, "block, P x 256") == ["block, P x 256", "1.1e-02", "2.1e-02"]
    assert (plots / "schemes-1.svg").stat().st_size > 1000
    assert "schemes-1.svg)" in text


def test_sources_are_bars_and_a_kernel_is_held_against_its_prediction(tmp_path):
    values = {"source_qk": 0.08, "source_v": 0.026, "source_p": 0.013, "source_hopper": 0.004, "source_two_level": 0.001}
    predicted = {"e1": 0.031, "e1_emulated": 0.02, "e1_two_level": 0.0203, "e1_hopper": 0.03, "e2": 0.05, "e3": 0.06}
    record = ok("fp8_emulated", None, values=accuracy(**values, **predicted), dtype="e4m3", inputs="outliers")
    text, plots = text_of(tmp_path, [record])
    assert row(text, "outliers, head, P x 256, seqlen 4k")[1:] == ["8.0e-02", "2.6e-02", "1.3e-02", "4.0e-03", "1.0e-03"]
    part = text[text.index("### Kernel against the prediction") :]
    assert row(part, "`fp8_emulated`")[-2:] == ["14 bits", "1.55"]
    first = (plots / "sources.svg").read_bytes()
    write_report([tmp_path / "run"], tmp_path / "again.md")
    assert (tmp_path / "again_plots" / "sources.svg").read_bytes() == first


def test_a_report_without_such_figures_has_no_such_part(tmp_path):
    text, plots = text_of(tmp_path, [ok("naive", 1e-3)])
    assert "Accuracy lab" not in text
    assert not list(plots.glob("s*.svg"))


@pytest.mark.parametrize("broken", ["heads", "causal"])
def test_other_problems_do_not_stand_for_the_papers_rows(tmp_path, broken):
    fields = {"heads": {"head_dim": 64}, "causal": {"causal": True}}[broken]
    text, _ = text_of(tmp_path, [e4m3(8.0e-3, scaling="block", hadamard=True, **fields)])
    assert "FlashAttention-3 paper's error table" not in text
