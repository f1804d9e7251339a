"""The report's section on kernels that ran in the emulation: verdicts, counts against what must be moved, no speed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fakes.report_runs import LAPTOP, incorrect, measurement, ok, write_run

from attnbench.case import compulsory_bytes, forward_flops, standard_bytes
from attnbench.records.measurement import RecordError
from attnbench.records.record import Record
from attnbench.report.page import write_report

EMULATED = {"mode": "emulation", "delivery": "random", "seed": 7, "checks": "full"}


def counted(record: Record, reread: float) -> Record:
    """A record of an emulated kernel that reads q once and k and v `reread` times, and writes out and lse."""
    case = record.case
    query_bytes, key_bytes = (
        2 * case.batch * rows * case.head_dim
        for rows in (case.seqlen_q * case.num_heads, 2 * case.seqlen_k * case.num_heads_kv)
    )
    lse_bytes = 4 * case.batch * case.seqlen_q * case.num_heads
    scores = case.batch * case.num_heads * case.seqlen_q * case.seqlen_k
    counts = {
        "global_read_bytes": int(query_bytes + reread * key_bytes), "global_write_bytes": query_bytes + lse_bytes,
        "reread": reread, "tensor_flops": 2 * forward_flops(case), "useful_flops": forward_flops(case),
        "exponentials": scores, "wgmma_shared_bytes": 1, "barrier_waits": 1234,
    }  # fmt: skip
    return replace(record, kernel={"name": "fwd", "emulated": EMULATED, "counted": counts})


def emulated(seqlen: int, reread: float) -> Record:
    return counted(ok("hopper_emulated", None, seqlen=seqlen, batch=1), reread)


def report_of(tmp_path, records) -> str:
    return write_report([write_run(tmp_path / "run", records, LAPTOP)], tmp_path / "report.md").read_text()


def cells(text: str, start: str) -> list[str]:
    section = text.partition("## Our kernels, emulated")[2]
    line = next(line for line in section.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_counts_stand_against_compulsory_and_standard_traffic(tmp_path):
    records = [emulated(1024, 1.0), emulated(4096, 8.0)]
    text = report_of(tmp_path, records)
    assert "## Our kernels, emulated" in text and "- 2 right (random delivery, full checks)." in text
    assert "- **Our own kernels?** 2 of 2 cases right in the CPU emulation, where nothing is timed." in text
    small, large = cells(text, "1k"), cells(text, "4k")
    assert small[3] == "right" and small[7] == "1.00 x" and large[9] == "8.00 x" and large[10] == "2.00 x"
    case = records[1].case
    moved = sum(records[1].kernel["counted"][name] for name in ("global_read_bytes", "global_write_bytes"))
    assert large[7] == f"{moved / compulsory_bytes(case):.2f} x"
    assert float(large[8].removesuffix(" x")) == pytest.approx(moved / standard_bytes(case), rel=5e-3)
    assert large[11] == "1.00" and large[12] == "1,234"
    assert re.search(r"from seqlen 1k to 4k the traffic goes from 1\.00 to \d\.\d\d times the compulsory bytes", text)


def test_standard_attention_writes_and_reads_s_and_p():
    case = emulated(1024, 1.0).case
    assert standard_bytes(case) == compulsory_bytes(case) + 4 * 2 * case.num_heads * 1024 * 1024


def test_wrong_ones_and_hazards_are_told(tmp_path):
    wrong = replace(incorrect("hopper_emulated", "mask", (), seqlen=1024, batch=1), kernel={"emulated": EMULATED})
    hazard = Record(emulated(2048, 1.0).case, "hopper_emulated", "1", "error", kind="hazard",
                    reason="race at x.cu:3: reads", kernel={"emulated": EMULATED})  # fmt: skip
    text = report_of(tmp_path, [emulated(4096, 1.0), wrong, hazard])
    assert "- 1 wrong, 1 hazard, 1 right" in text or "- 1 right, 1 wrong, 1 hazard" in text
    assert cells(text, "1k")[3] == "wrong" and cells(text, "2k")[3:6] == ["hazard", "—", "—"]
    assert "1 of 3 cases right" in text


def test_a_run_without_them_has_no_such_section(tmp_path):
    assert "emulated" not in report_of(tmp_path, [ok("naive", 1e-3)])


def test_no_time_of_an_emulated_kernel_can_be_written():
    timed = ok("hopper_emulated", 1e-3)
    with pytest.raises(RecordError, match="ran in an emulation: no time of it is a speed"):
        replace(timed, kernel={"emulated": EMULATED})
    with pytest.raises(RecordError, match="no time of it is a speed"):
        replace(emulated(1024, 1.0), measurement=measurement(1e-3))


def test_no_rate_speedup_or_rank_counts_them(tmp_path):
    shape = {"seqlen": 1024, "batch": 1}
    text = report_of(tmp_path, [emulated(1024, 1.0), ok("naive", 1e-3, **shape), ok("cpu_flash", 5e-4, **shape)])
    without = report_of(tmp_path / "b", [ok("naive", 1e-3, **shape), ok("cpu_flash", 5e-4, **shape)])

    def speeds(report: str) -> list[str]:
        found = re.findall(r"[^\n]*(?:TFLOPS|fastest|speedup|times as fast)[^\n]*", report)
        return [re.sub(r"[ -]+", " ", line) for line in found]

    assert speeds(text) == speeds(without) and not any("hopper_emulated" in line for line in speeds(text))
