"""The report's section on kernels that an interpreter ran: verdicts, what is undefined, traffic, no speed."""

from __future__ import annotations

from dataclasses import replace

from fakes.report_runs import LAPTOP, incorrect, ok, write_run

from attnbench.case import compulsory_bytes, forward_flops
from attnbench.report.page import write_report

FACTS = {
    "language": "triton", "version": "3.7.1", "mended": True, "poison": True, "seed": 7, "config": "",
    "stand_ins": ["Tensor.is_cuda"], "defined": True,
}  # fmt: skip


def interpreted(record, times, **facts):
    """A record of a kernel that moves `times` the compulsory bytes."""
    case = record.case
    counted = {
        "global_read_bytes": times * compulsory_bytes(case), "global_write_bytes": 0, "reread": None,
        "tensor_flops": 2 * forward_flops(case), "useful_flops": forward_flops(case), "exponentials": 1,
        "barrier_waits": 0,
    }  # fmt: skip
    return replace(record, kernel={"name": "fwd", "interpreted": {**FACTS, **facts}, "counted": counted})


def report_of(tmp_path, records):
    return write_report([write_run(tmp_path / "run", records, LAPTOP)], tmp_path / "report.md").read_text()


def test_verdicts_traffic_and_what_is_undefined(tmp_path):
    records = [
        interpreted(ok("mine", None, seqlen=1024), 2),
        interpreted(ok("mine", None, seqlen=2048), 4, defined=False, undefined=["mine.py:12"]),
        interpreted(incorrect("theirs", seqlen=1024), 3),
    ]
    text = report_of(tmp_path, records)
    section = text.partition("## Interpreted kernels")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    assert [row[:3] for row in rows] == [
        ["`mine`", "triton 3.7.1", "1 right, 1 right with zeros in masked lanes only"],
        ["`theirs`", "triton 3.7.1", "1 wrong"],
    ]
    assert rows[0][4:] == ["3.00 x", "2.00 x"] and rows[1][4:] == ["3.00 x", "2.00 x"]
    assert "`mine` depends on what masked lanes of a load without `other` hold: `mine.py:12` in 1 case." in section
    assert "`mine` asked of a GPU that is not there: `Tensor.is_cuda`." in section
    assert "Nothing was timed" in text


def test_nothing_is_said_where_nothing_was_interpreted(tmp_path):
    assert "Interpreted" not in report_of(tmp_path, [ok("naive", None, seqlen=1024)])
