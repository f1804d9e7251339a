"""A report's memory section: what stands in it, and that it stands only where records hold peaks."""

import pytest
from fakes.report_runs import LAPTOP, ok, write_run

from attnbench.report.page import write_report

LENGTHS = (256, 512, 1024)


def held(backend, seqlen, peak, by="allocator", **fields):
    timing = {} if peak is None else {"peak_bytes": peak, "peak_by": by}
    return ok(backend, 1e-3, timing=timing, seqlen=seqlen, **{"head_dim": 64, **fields})


def report(tmp_path, records):
    return write_report([write_run(tmp_path / "run", records, LAPTOP)], tmp_path / "report.md").read_text()


def test_quadratic_and_linear_memory_stand_side_by_side(tmp_path):
    records = [held("naive", seqlen, 16 * seqlen**2) for seqlen in LENGTHS]
    records += [held("cpu_flash", seqlen, 1024 * seqlen) for seqlen in LENGTHS]
    text = report(tmp_path, records)
    assert "- Peak memory grows from 256 to 1k tokens: `naive` as seqlen^2.00 and `cpu_flash` as seqlen^1.00." in text
    section = text.partition("## Memory\n")[2].partition("\n## ")[0]
    cells = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| `")}
    for words in ("256 – 1k", "1.00 MiB", "16.0 MiB", "2.00 – 2.00", "3 peaks, 1 curve", "allocator"):
        assert words in cells["`naive`"], words
    assert "256 KiB" in cells["`cpu_flash`"] and "1.00 – 1.00" in cells["`cpu_flash`"]
    assert (tmp_path / "report_plots" / "memory.svg").is_file() and "report_plots/memory.svg" in section


def test_a_figure_of_the_process_is_named_as_one(tmp_path):
    text = report(tmp_path, [held("mine", seqlen, 99 * seqlen, "process") for seqlen in LENGTHS])
    assert "process |" in text.partition("## Memory\n")[2]


@pytest.mark.parametrize("records", [
    [held("naive", seqlen, None) for seqlen in LENGTHS],
    [held("naive", seqlen, 16 * seqlen**2) for seqlen in LENGTHS[:2]],
], ids=["no peaks", "two lengths"])  # fmt: skip
def test_without_enough_peaks_there_is_no_section(records, tmp_path):
    text = report(tmp_path, records)
    assert "## Memory" not in text and "Peak memory grows" not in text
    assert not (tmp_path / "report_plots" / "memory.svg").exists()
