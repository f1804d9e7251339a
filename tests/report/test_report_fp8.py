"""The accuracy lab's part of a report, from hand-made records: every figure is found where it belongs."""

import pytest
from fakes.report_runs import accuracy, ok, write_run

from attnbench.report import fp8
from attnbench.report.fp8 import prediction_panels
from attnbench.report.page import write_report
from attnbench.report.plots import QUIET_STYLES

PAPER = {"num_heads": 1, "batch": 1, "inputs": "outliers", "seqlen": 8192}


def e4m3(rmse, seed=0, backend="fp8_emulated", **fields):
    values = accuracy(rmse_drawn=rmse, e1=0.02, e1_emulated=0.019, e2=0.04, e3=0.05)
    return ok(backend, None, values=values, dtype="e4m3", seed=seed, **{**PAPER, **fields})


def fp16(rmse, backend):
    return ok(backend, None, values=accuracy(rmse_drawn=rmse), dtype="fp16", **PAPER)


def sources(*errors):
    return dict(zip(fp8.FIGURES, errors, strict=True))


def text_of(tmp_path, records):
    run = write_run(tmp_path / "run", records)
    return write_report([run], tmp_path / "report.md").read_text(), tmp_path / "report_plots"


def row(text, words):
    line = next(line for line in text.splitlines() if line.startswith(f"| {words} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def cells_of(text, first):
    """The cells of the first table row that begins with this one."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|")
    return next(cells for cells in rows if cells[0] == first)


def test_the_papers_table_has_six_rows_with_ours_beside(tmp_path):
    records = [fp16(3.0e-4, "fp16_standard"), fp16(1.8e-4, "naive")]
    for seed, factor in enumerate((1.0, 1.1)):
        records += [
            e4m3(2.4e-2 * factor, seed, "fp8_baseline", scaling="tensor"),
            e4m3(8.0e-3, seed, scaling="block", hadamard=True),
            e4m3(9.0e-3, seed, scaling="tensor", hadamard=True),
        ]
    text, _ = text_of(tmp_path, records)
    assert row(text, "FP16 standard")[1:] == ["`fp16_standard`", "3.2e-04", "3.00e-04", "3.00e-04", "3.00e-04", "1"]
    assert row(text, "FP8 baseline")[2:] == ["2.4e-02", "2.52e-02", "2.40e-02", "2.64e-02", "2"]
    assert row(text, "FP8 FlashAttention-3")[2:] == ["9.1e-03", "8.00e-03", "8.00e-03", "8.00e-03", "2"]
    assert row(text, "without incoherent processing")[3:] == ["not run", "—", "—", "0"]
    factor = "FlashAttention-3's scheme: 3.15 (mean; 3.00 to 3.30 over 2 seeds); the paper: 2.6"
    assert factor in text[: text.index("## Machine")] and factor in text[text.index("## Accuracy lab") :]
    assert "It does not state seqlen, batch, heads, mask, softmax scale, seed" in text


def test_schemes_against_inputs_are_a_table_and_a_map(tmp_path):
    records = []
    for number, inputs in enumerate(("normal", "outliers")):
        for scaling in ("tensor", "block"):
            for seed in (0, 1):
                e3 = 0.01 * (1 + number) + 0.002 * seed
                values = accuracy(e1=0.02, e1_emulated=0.019, e2=0.04, e3=e3)
                scheme = {"inputs": inputs, "scaling": scaling, "seed": seed}
                records.append(ok("fp8_emulated", None, values=values, dtype="e4m3", **scheme))
    text, plots = text_of(tmp_path, records)
    assert row(text, "block, P x 256") == ["block, P x 256", "1.1e-02", "2.1e-02"]
    assert "Highest over lowest scheme (the lowest): normal 1.00x (tensor, P x 256); outliers 1.00x (tensor" in text
    assert (plots / "schemes-1.svg").stat().st_size > 1000
    assert "schemes-1.svg)" in text


def test_sources_are_bars_and_a_kernel_is_held_against_its_prediction(tmp_path):
    values = sources(0.08, 0.026, 0.013, 0.004, 0.001)
    predicted = {"e1": 0.031, "e1_emulated": 0.02, "e1_two_level": 0.0203, "e1_hopper": 0.03, "e2": 0.05, "e3": 0.06}
    record = ok("fp8_emulated", None, values=accuracy(**values, **predicted), dtype="e4m3", inputs="outliers")
    more = accuracy(**{**values, "source_v": 0.1}, **predicted)
    other = ok("fp8_emulated", None, values=more, dtype="e5m2", inputs="outliers")
    text, plots = text_of(tmp_path, [record, other])
    assert cells_of(text, "outliers, e5m2, head, P x 256, seqlen 4k")[2] == "1.0e-01"
    shown = cells_of(text, "outliers, head, P x 256, seqlen 4k")
    assert shown[1:] == ["8.0e-02", "2.6e-02", "1.3e-02", "4.0e-03", "1.0e-03"]
    part = text[text.index("### Kernel against the prediction") :]
    assert row(part, "`fp8_emulated`")[-2:] == ["14 bits", "1.55"]
    first = (plots / "sources.svg").read_bytes()
    write_report([tmp_path / "run"], tmp_path / "again.md")
    assert (tmp_path / "again_plots" / "sources.svg").read_bytes() == first


def test_a_kernels_error_grows_beside_its_predictions(tmp_path):
    """One panel for the scheme with two lengths, none for the one with a single length; seeds are their mean."""
    records = []
    for seqlen, e1 in ((1024, 0.02), (4096, 0.04)):
        for seed in (0, 1):
            values = {"e1": e1 + 0.002 * seed, "e1_emulated": 0.02, "e1_two_level": 0.021, "e1_hopper": 0.039}
            records.append(ok("hopper", None, values=accuracy(**values, e2=0.05, e3=0.06), dtype="e4m3", seqlen=seqlen,
                              seed=seed))  # fmt: skip
    lone = accuracy(e1=0.02, e1_emulated=0.02, e1_two_level=0.02, e1_hopper=0.02, e2=0.05, e3=0.06)
    records.append(ok("hopper", None, values=lone, dtype="e4m3", hadamard=True))
    text, plots = text_of(tmp_path, records)
    part = text[text.index("### Kernel against the prediction") :]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[0:1] == "|"]
    assert ["`hopper`", "normal", "head, P x 256", "4k", "4.1e-02", "2.0e-02", "2.1e-02", "3.9e-02", "14 bits",
            "2.05"] in rows  # fmt: skip
    assert "Drawn" not in part.partition("\n| ")[0] and "report_plots/predictions.svg)" in part
    assert (plots / "predictions.svg").is_file()
    of = {"e1": 0.02, "e1_emulated": 0.01, "e1_two_level": 0.011, "e1_hopper": 0.03}
    more = {"e1": 0.05, "e1_emulated": 0.01, "e1_two_level": 0.011, "e1_hopper": 0.06}
    (panel,) = prediction_panels({("a", "normal", "head", 64): of, ("a", "normal", "head", 128): more,
                                  ("a", "sink", "head", 64): of})  # fmt: skip
    assert panel.lines == {"a": ((64, 0.02), (128, 0.05))} and panel.quiet["14 bits"] == ((64, 0.03), (128, 0.06))
    assert set(panel.quiet) <= set(QUIET_STYLES)


def test_many_sources_are_folded_and_the_largest_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(fp8, "MAX_GROUPS", 2)
    drawn = []

    def draw(path, title, groups, *rest):
        drawn.append(groups)

    monkeypatch.setattr(fp8.plots, "source_bars", draw)
    records = []
    for seqlen, qk in ((1024, 0.08), (2048, 0.01), (4096, 0.09)):
        values = accuracy(**sources(qk, 0.02, 0.01, 0.004, 0.001), e2=0.05, e3=0.06)
        records.append(ok("fp8_emulated", None, values=values, dtype="e4m3", seqlen=seqlen))
    text, _ = text_of(tmp_path, records)
    assert [[place.split()[-1] for place in groups] for groups in drawn] == [["1k", "4k"]]
    assert "Drawn: the 2 of 3 with the largest error." in text and "<summary>All of them</summary>" in text


def test_a_report_without_such_figures_has_no_such_part(tmp_path):
    text, plots = text_of(tmp_path, [ok("naive", 1e-3)])
    assert "Accuracy lab" not in text
    assert not list(plots.glob("s*.svg"))


@pytest.mark.parametrize("broken", ["heads", "causal"])
def test_other_problems_do_not_stand_for_the_papers_rows(tmp_path, broken):
    fields = {"heads": {"head_dim": 64}, "causal": {"causal": True}}[broken]
    text, _ = text_of(tmp_path, [e4m3(8.0e-3, scaling="block", hadamard=True, **fields)])
    assert "FlashAttention-3 paper's error table" not in text
