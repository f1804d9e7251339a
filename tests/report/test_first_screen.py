"""The first screen of a report: the answers that a reader asks for first, and a figure near the top."""

import math
import re
from dataclasses import replace

import pytest
from fakes.report_runs import H200, LAPTOP, accuracy, failed, incorrect, ok, unsupported, write_run

from attnbench.records.measurement import Block
from attnbench.records.stats import Statistics
from attnbench.report.page import write_report

LINES, WORDS = 30, 150
QUESTIONS = (
    "Is everything right?", "Who is fastest?", "Our own kernels?", "Can the times be trusted?", "What did not run?",
)  # fmt: skip
CAUSE = "mask: causal is aligned top left, not bottom right"


def first_screen(tmp_path, records, environment=H200):
    text = write_report([write_run(tmp_path / "run", records, environment)], tmp_path / "r.md").read_text()
    screen = text.split("\n")[:LINES]
    for question in QUESTIONS:
        assert any(question in line for line in screen), question
    return text, "\n".join(screen)


def answer(screen, question):
    (found,) = re.findall(rf"^- \*\*{re.escape(question)}.*(?:\n  - .*)*", screen, re.MULTILINE)
    return found


def sweep(name, factor=1.0, timing=None, **fields):
    return [ok(name, factor * seqlen * 1e-6, timing=timing, seqlen=seqlen, **fields) for seqlen in (512, 1024, 2048)]


def emulated(**fields):
    return replace(
        ok("hopper_emulated", None, **fields), kernel={"emulated": {"delivery": "lazy", "seed": 0, "checks": "full"}}
    )


def test_a_run_where_all_is_well(tmp_path):
    text, screen = first_screen(tmp_path, [*sweep("fa2", 1.5), *sweep("hopper")])
    assert answer(screen, "Is everything right?").endswith("Yes: 6 results (3 cases on 2 backends) passed every check.")
    fastest = answer(screen, "Who is fastest?").splitlines()[1]
    assert re.fullmatch(
        r"  - bf16: `hopper` in 3 of 3 cases; it is 1\.50x \(1\.4\dx to 1\.5\dx\) as fast as `fa2`\.", fastest
    )
    assert re.search(
        r"`hopper` right in 3 of 3 cases, 1\.50x \(.*\) as fast as `fa2` in bf16", answer(screen, "Our own kernels?")
    )
    assert "Yes: all 6 converged: intervals of ±" in answer(screen, "Can the times be trusted?")
    assert answer(screen, "What did not run?").endswith("Nothing: every backend took every case.")
    assert len(text[: text.index("![")].split()) <= WORDS


def test_the_interval_of_a_lead_comes_from_both_medians(tmp_path):
    """Two cases: the geometric mean of what the medians' intervals allow at most and at least."""
    noisy = {"blocks": (Block(tuple(1e-3 * (1 + 0.02 * (index % 11 - 5)) for index in range(60)), 60),)}
    records = [ok("fa2", 2e-3), ok("fa3", 1e-3, timing=noisy)]
    records += [ok("fa2", 4e-3, seqlen=64), ok("fa3", 1e-3, seqlen=64)]
    ends = {(record.backend, record.case.seqlen_k): Statistics.of(record.measurement).interval for record in records}
    low = math.sqrt(math.prod(ends["fa2", n].low_s / ends["fa3", n].high_s for n in (4096, 64)))
    high = math.sqrt(math.prod(ends["fa2", n].high_s / ends["fa3", n].low_s for n in (4096, 64)))
    _, screen = first_screen(tmp_path, records)
    assert f"2.84x ({low:.2f}x to {high:.2f}x) as fast as `fa2`" in answer(screen, "Who is fastest?")


def test_failures_come_with_cause_and_smallest_case_and_before_the_tables_of_speed(tmp_path):
    killed = "in phase check: the worker process was killed by SIGSEGV\nthe tail of its output"
    records = [*sweep("fa2"), failed("triton", "crash", killed, seqlen=512)]
    records += [incorrect("mine", CAUSE, seqlen=seqlen) for seqlen in (2048, 512, 1024)]
    text, screen = first_screen(tmp_path, records)
    right = answer(screen, "Is everything right?")
    assert right.startswith("- **Is everything right? No**: 4 of 7 results failed")
    assert f"`mine` incorrect in 3 cases, the smallest `bf16-d128-h16-b4-q512-k512-full-normal.0`: {CAUSE}" in right
    assert "`triton` crash in 1 case: in phase check: the worker process was killed by SIGSEGV" in right
    assert text.index("## Incomplete cases") < text.index("## Machine") < text.index("## Speed")
    assert text.index("| likely cause ") < text.index("| rule that failed worst ")
    assert "attnbench repro results/run bf16-d128-h16-b4-q512-k512-full-normal.0 mine" in text
    well, _ = first_screen(tmp_path / "well", [*sweep("fa2"), unsupported("fa3", "no", seqlen=512)])
    assert well.index("## Incomplete cases") > well.index("## Speed")


def test_emulated_kernels_are_right_and_nowhere_fast(tmp_path):
    records = [*sweep("naive"), *(emulated(seqlen=seqlen) for seqlen in (512, 1024, 2048))]
    _, screen = first_screen(tmp_path, records, LAPTOP)
    assert "3 of 3 cases right in the CPU emulation, where nothing is timed" in answer(screen, "Our own kernels?")
    assert answer(screen, "Who is fastest?").splitlines()[1] == "  - bf16: `naive` alone."
    row = next(line for line in screen.splitlines() if line.startswith("| `hopper_emulated`"))
    assert "x" not in row


def test_a_shared_cpu_is_described_once(tmp_path):
    """No mark in any cell, one line of warnings, and the widths where the reader looks for them."""
    loose = {"converged": False, "timer": "cpu"}
    records = [*sweep("naive", 3e3, loose), *sweep("cpu_flash", 2e3, loose)]
    environment = {**LAPTOP, "cpu": {"model": "c", "virtual_machine": True}}
    text, screen = first_screen(tmp_path, records, environment)
    assert "With care: timed on a shared CPU: 6 of 6 intervals are wider than asked for: ±" in screen
    speed = text[text.index("## Speed") : text.index("## Accuracy")]
    assert "†" not in speed and "±" not in speed.split("<details>")[0]
    assert "GFLOPS" in speed and "TFLOPS" not in speed
    warnings = text[text.index("## Warnings") :].split("\n\n")[1].splitlines()
    assert len(warnings) == 1 and warnings[0].startswith("- 6 of 6 measurements did not converge")


def test_what_did_not_run_and_why(tmp_path):
    records = [*sweep("fa2"), *(unsupported("flex", "no FlexAttention here", seqlen=seqlen) for seqlen in (512, 1024))]
    records += [unsupported(name, "it needs a GPU", seqlen=512) for name in ("a", "b")]
    _, screen = first_screen(tmp_path, records, {**H200, "planned_records": 12})
    missing = answer(screen, "What did not run?")
    assert "**5 of 12 records**, which an interruption or the budget left no time for" in missing
    assert "`flex` in all 2 cases: no FlexAttention here; `a` and `b` in 1 case: it needs a GPU" in missing


@pytest.mark.parametrize("records", [[], [unsupported("fa2", "no")], [ok("fa2", None)]])
def test_little_to_say_is_said(tmp_path, records):
    _, screen = first_screen(tmp_path, records)
    assert "Nothing was timed." in answer(screen, "Who is fastest?")


def test_the_first_figure_is_near_the_top_however_much_there_is(tmp_path):
    """Many backends, dtypes and ways to fail: what does not fit above the figure stands below it."""
    long = "sum: " + " ".join(["something"] * 60)
    records = [record for dtype in ("fp16", "bf16", "e4m3", "e5m2") for name in "abcdef"
               for record in sweep(name, 1 + ord(name) / 1e3, dtype=dtype)]  # fmt: skip
    for place in range(1, 9):
        records += [incorrect(name, f"{long} {place}", seqlen=64 * place, head_dim=64) for name in "uvwxyz"]
        records += [failed(name, "crash", f"{long} {place}", seqlen=64 * place, head_dim=256) for name in "uvw"]
    records += [unsupported(name, long, head_dim=32) for name in "mnopqr"]
    text, screen = first_screen(tmp_path, records)
    assert "![" in screen and len(text[: text.index("![")].split()) <= WORDS


def test_panels_of_a_figure_share_their_y_axis(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    limits = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **more: limits.setdefault(
        path.name, {axes.get_ylim() for axes in figure.axes}))  # fmt: skip
    records = [*sweep("fa2"), *sweep("fa2", 0.5, causal=True), *sweep("fa2", 0.1, head_dim=64)]
    records = [replace(record, accuracy=accuracy(1e-3 * (1 + place))) if place < 2 else record
               for place, record in enumerate(records)]  # fmt: skip
    first_screen(tmp_path, records)
    assert {"tflops-bf16-1.svg", "error-bf16-1.svg"} <= set(limits)
    assert all(len(found) == 1 for found in limits.values())
