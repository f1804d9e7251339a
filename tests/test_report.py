"""The report: a golden file, equal bytes, and what each kind of record must make it say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import H200, LAPTOP, accuracy, failed, incorrect, ok, unsupported, write_run

from attnbench import report_errors, report_incorrect, report_speed
from attnbench.measurement import Block, PrepTiming
from attnbench.report import write_report
from attnbench.report_incomplete import MAX_KEYS
from attnbench.report_markdown import anonymous, fence, plain, table
from attnbench.report_summary import anchor
from attnbench.store import StoreError

GOLDEN = Path(__file__).parent / "golden_report" / "report.md"
CRASH = """in phase check: the worker process was killed by SIGSEGV
  File "/home/somebody/kernels/own.py", line 3
fault at 0x7f0012345678"""
# `prepare` took long, once; what each call needs is another figure.
FP8_PREP = {"prep_s": 7e-3, "prep_call": PrepTiming("its own quantize kernel", (300e-6, 100e-6, 200e-6), 1, "cold")}


def made_records():
    """Two backends and a baseline at two lengths, e4m3 beside them, and one of every way not to come out whole."""
    records = []
    for causal in (False, True):
        for seqlen, batch in ((1024, 16), (4096, 4)):
            shape = {"seqlen": seqlen, "batch": batch, "causal": causal}
            time_s = seqlen * (0.5 if causal else 1.0) * 1e-6
            records += [
                ok("fa2", 1.5 * time_s, **shape),
                ok("fa3", time_s, accuracy(1.5e-3), {"prep_s": 20e-6, "compile_s": 3.0, "peak_bytes": 2**30}, **shape),
                ok("naive", 1.004 * time_s, accuracy(2.9e-3), **shape)
                if seqlen == 1024
                else unsupported("naive", "needs 4.0 GiB of scores; the device has 2.0 GiB", **shape),
            ]
    for seqlen in (1024, 4096):
        shape = {"seqlen": seqlen, "batch": 4096 * 4 // seqlen, "dtype": "e4m3"}
        fp8 = accuracy(0.03, 0.05, e1=0.03, e1_emulated=0.029, e2=0.06, e3=0.067)
        records += [
            unsupported("fa2", "takes fp16 and bf16, not e4m3", **shape),
            ok("fa3", 0.6 * seqlen * 1e-6, fp8, FP8_PREP, ["the clock fell during the last block"], **shape),
            ok("fp8_emulated", None, fp8, **shape),
        ]
    records += [
        incorrect(
            "triton",
            "mask: each query sees one key too few",
            ("error by head", "batch 0 head 3 ..7."),
            seqlen=1024,
            batch=16,
        ),
        failed("triton", "crash", CRASH, seqlen=4096, batch=4),
        failed("triton", "crash", CRASH.replace("12345678", "87654321"), seqlen=4096, batch=4, causal=True),
        failed("triton", "timeout", "no result within 120 s", seqlen=1024, batch=16, causal=True),
        ok("triton", 1e-3, timing={"converged": False, "unmet": ("CI 0.9 % > 0.25 %",)}, seqlen=1024, dtype="fp16"),
    ]
    return records


def report_of(tmp_path, records, environment=H200, name="run") -> str:
    run = write_run(tmp_path / name, records, environment)
    return write_report([run], tmp_path / "report.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The report of `made_records`, for the tests that only read it."""
    folder = tmp_path_factory.mktemp("made")
    report_of(folder, made_records())
    return folder / "report.md"


def section(text: str, title: str) -> str:
    """From a heading to the next of its level."""
    level = title.split(" ")[0]
    found = re.search(rf"^{re.escape(title)}\b.*?(?=^{level} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found.group()


def cells(text: str, *words: str) -> list[str]:
    """The cells of the only table row that holds all these words."""
    rows = [line for line in text.splitlines() if line.startswith("|") and all(word in line for word in words)]
    assert len(rows) == 1, (words, rows)
    return [cell.strip() for cell in rows[0].strip("|").split(" | ")]


def test_golden(made):
    """ATTNBENCH_WRITE_GOLDEN=1 writes the file anew; read the difference before committing it."""
    text = made.read_text()
    if os.environ.get("ATTNBENCH_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_same_records_same_bytes(tmp_path):
    """In other processes with other hash seeds, in other folders: markdown and plots."""
    made = []
    for seed in ("1", "2"):
        run = write_run(tmp_path / seed / "run", made_records())
        code = f"from attnbench.report import write_report; write_report([{str(run)!r}], {str(run.parent / 'r.md')!r})"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        made.append(
            {path.name: path.read_bytes() for path in run.parent.rglob("*.*") if path.suffix in (".md", ".svg")}
        )
    assert made[0] == made[1]
    assert {"r.md", "tflops-bf16-1.svg", "error-bf16-1.svg", "tflops-e4m3-1.svg"} <= set(made[0])


def test_summary_counts_and_words(made):
    summary = section(made.read_text(), "## Summary")
    assert "23 records: 7 cases on 5 backends. 15 passed every check (13 timed), 1 incorrect, 3 errors" in summary
    assert "**bf16**, 4 cases with two or more measurements." in summary
    assert "`fa3` in 2, 1.50x ahead of the next" in summary and "2 too close to call" in summary
    assert "**bf16** against `fa2` (geometric mean): `fa3` 1.50x (4 cases), `naive` 1.49x (2 cases)." in summary
    assert "`triton` incorrect in 1 case, `triton` crash in 2 cases and `triton` timeout in 1 case" in summary
    assert "closest to a limit: `naive` at 0.97 of relative RMSE's" in summary
    # kernel: 1 / 0.6; with prep: 1024 / (614.4 + 200) and 4096 / (2457.6 + 200), their geometric mean
    assert "`fa3` is 1.67x as fast as the fastest 16-bit backend" in summary and "1.39x with prep + kernel" in summary


def test_speed_cells(made):
    text = section(made.read_text(), "### bf16, head_dim 128, full, 16 heads")
    assert "batch x seqlen_q = 16k tokens" in text and "Speedup over `fa2`" in text and "Peak: 989.4 TFLOPS" in text
    rates, times = text.split("Time of a call (median):")
    tflops = 4 * 1024 * 1024 * 128 * 16 * 16 / 1024e-6 / 1e12
    row = cells(rates, "| 1k ")
    assert row[:2] == ["1k", "16"]
    assert row[3] == f"**{tflops:.0f}** · 1.50x · {100 * tflops / 989.4:.0f} %"
    assert row[4].startswith("**") and row[4].split(" · ")[1] == "1.49x"  # within 1 % of the fastest: level
    assert row[2] == f"{tflops / 1.5:.1f} · {100 * tflops / 1.5 / 989.4:.1f} %"  # the baseline has no speedup
    assert cells(rates, "| 4k ")[4] == "—"
    assert cells(times.split("<details>")[0], "| 4k ")[3] == "4.096 ms"
    assert "No measurement here, see [incomplete cases](#incomplete-cases): `triton`." in text


def test_fp8_shows_kernel_alone_and_with_prep(made):
    text = made.read_text()
    row = cells(section(text, "### e4m3, head_dim 128, full, 16 heads").split("<details>")[0], "| 1k ", "us")
    assert row[2] == "614.4 us / 814.4 us"
    assert "kernel only / prep + kernel. Prep of `fa3`: its own quantize kernel:" in text
    row = cells(section(text, "### FP8: three errors").split("<details>")[0], "`fa3`")
    assert row[2:] == ["2", "3.0e-02", "2.9e-02", "6.0e-02", "6.7e-02"]


def test_records_from_before_quantization_was_timed_say_what_their_prep_is(tmp_path):
    timed = ok("fp8_emulated", 1e-3, accuracy(0.03, 0.05), FP8_PREP, dtype="e4m3")
    old = ok("fa3", 1e-3, accuracy(0.03, 0.05), {"prep_s": 2e-4}, dtype="e4m3")
    text = report_of(tmp_path, [timed, old])
    assert "Prep of `fp8_emulated`: its own quantize kernel; Prep of `fa3`: `prepare` once, wall time, without" in text
    row = cells(section(text, "### e4m3, head_dim 128, full, 16 heads").split("<details>")[0], "| 4k ", "ms")
    assert sorted(row[-2:]) == ["1.000 ms / 1.200 ms"] * 2


def test_every_incomplete_case_is_listed_with_its_reason(made):
    records = made_records()
    text = section(made.read_text(), "## Incomplete cases")
    for record in records:
        assert (record.case_key in text) == any(
            other.status != "ok" for other in records if other.case_key == record.case_key
        )
    row = cells(text, "SIGSEGV")
    assert row[1:3] + row[4:] == ["crash", "in phase check: the worker process was killed by SIGSEGV", "2"]
    assert cells(text, "needs 4.0 GiB")[3] == "2"
    assert cells(text, "relative RMSE", "`triton`")[3] == "0.04 / 0.003 = 13.3"
    assert "attnbench repro results/run bf16-d128-h16-b16-q1024-k1024-full-normal.0 triton" in text


def test_long_lists_of_keys_say_how_many_are_left_out(tmp_path):
    records = [unsupported("fa2", "no", seqlen=seqlen) for seqlen in range(1, MAX_KEYS + 8)]
    text = section(report_of(tmp_path, records), "## Incomplete cases")
    assert text.count("bf16-d128") == MAX_KEYS and "and 7 more" in text


def test_every_cause_has_its_maps_and_the_rest_is_counted(tmp_path):
    mask, sums = "mask: each query sees one key too few", "accumulation: the error grows (to the power {})"
    records = [
        incorrect("fa2", mask, ["error by head", "batch 0 head 0 " + n * "9"], seqlen=64 * n) for n in range(1, 6)
    ]
    records += [incorrect("fa3", sums.format(n / 10), seqlen=64 * n) for n in (3, 4)]
    text = section(report_of(tmp_path, records), "### Where it is wrong")
    assert [cells(text, "`fa2`", " 5 "), cells(text, "`fa3`", " 2 ")] == [
        ["`fa2`", mask, "5"], ["`fa3`", sums.format(0.3), "2"],
    ]  # fmt: skip
    maps = re.findall(r"^`fa2`, `(.+)`: mask.*\n\n```\nerror by head\n(.*)\n```$", text, re.MULTILINE)
    assert maps == [(records[4].case_key, "batch 0 head 0 99999"), (records[3].case_key, "batch 0 head 0 9999")]
    assert "3 more maps in the column `reason`" in text and "2 results without a map" in text


def test_maps_and_rows_are_bounded_and_every_cause_has_one_first(tmp_path, monkeypatch):
    monkeypatch.setattr(report_incorrect, "MAX_MAPS", 3)
    monkeypatch.setattr(report_incorrect, "MAX_ROWS", 4)
    records = [incorrect("fa2", ("one", "two")[n % 2], ["a map"], seqlen=64 * (n + 1)) for n in range(8)]
    text = section(report_of(tmp_path, records), "## Incomplete cases")
    assert re.findall(r"^`fa2`.*: (\w+)$", text, re.MULTILINE) == ["one", "one", "two"]
    assert "5 more maps" in text and "And 4 more, in `attnbench.load(run)`." in text


def test_nothing_of_this_machine_shows(made):
    text = made.read_text()
    assert str(made.parent) not in text and "somebody" not in text and "/home" not in text and "own.py" in text
    assert "0x7f00" not in text


def test_warnings_and_stamps(tmp_path):
    environment = {**H200, "suspect": "GEMM drifted by 4 %", "gpu": {**H200["gpu"], "other_processes": 2}}
    records = [*made_records(), ok("fa2", 1e-3, seqlen=1024, batch=16)]
    run = write_run(tmp_path / "run", records, environment)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"cut": ')
    text = section(write_report([run], tmp_path / "report.md").read_text(), "## Warnings")
    assert "`fa3`: the clock fell during the last block (2 cases, the first `e4m3-d128" in text
    assert "`triton` did not converge: CI 0.9 % &gt; 0.25 % (at `fp16-d128" in text
    assert "marked suspect: GEMM drifted by 4 %" in text and "2 other processes on the GPU" in text
    assert "truncated line" in text and "1 record left out: a later one" in text


def test_warnings_that_differ_in_numbers_only_are_one_line(tmp_path):
    records = [ok("fa2", 1e-3, warnings=[f"{n} sets of {n}.5 MB"], seqlen=64 * n) for n in range(1, 9)]
    lines = section(report_of(tmp_path, records), "## Warnings").strip().splitlines()[2:]
    key = "bf16-d128-h16-b4-q64-k64-full-normal.0"
    assert lines == [f"- `fa2`: for example 1 sets of 1.5 MB (8 cases, the first `{key}`)"]


def test_medians_whose_intervals_overlap_are_level(tmp_path):
    """6 % apart, samples spread over 20 %: nobody is said to be faster. The same medians measured well: somebody is."""
    wide, narrow = ([1 + spread * (index % 11 - 5) for index in range(60)] for spread in (0.02, 1e-4))
    for samples, said in ((wide, "1 too close to call"), (narrow, "`fa2` in 1, 1.06x ahead")):
        blocks = [(Block(tuple(factor * sample for sample in samples), 60),) for factor in (1.0, 1.06)]
        records = [ok(name, 1.0, timing={"blocks": timed}) for name, timed in zip(("fa2", "fa3"), blocks)]
        assert said in section(report_of(tmp_path / said[:3], records), "## Summary")


def test_the_later_record_of_a_case_counts(tmp_path):
    text = report_of(tmp_path, [failed("fa2", "oom", "full"), ok("fa2", 1e-3), ok("fa3", 2e-3)])
    assert "None: every case on every backend was checked and passed." in text
    assert "`fa2` in 1, 2.00x ahead" in text


def test_cpu_runs_have_no_peak(tmp_path):
    records = [ok(name, time_s, timing={"timer": "cpu"}) for name, time_s in (("naive", 2.0), ("cpu_flash", 1.0))]
    text = report_of(tmp_path, records, LAPTOP)
    assert "No peak is known for this machine." in text and "timer `cpu`" in text
    assert cells(section(text, "### bf16"), "| 4k ", "·")[1:] == ["0.275", "**0.550** · 2.00x"]
    assert cells(section(text, "## Machine"), "GPU") == ["GPU", "none"]


def test_the_runs_own_gemm_stands_in_for_an_unknown_peak(tmp_path):
    environment = {"cpu": {"model": "c"}, "sentinels": {"gemm_flops_per_s": 1e12}}
    text = section(report_of(tmp_path, [ok("naive", 2.0, timing={"timer": "cpu"})], environment), "## Speed")
    assert "bf16 GEMM: 1.000 TFLOPS (the % are of it)" in text and "· 27 %" in text


def test_runs_of_one_machine_that_measured_different_things_read_as_one(tmp_path):
    first = write_run(tmp_path / "one", [ok("fa2", 1e-3, dtype="fp16")])
    second = write_run(tmp_path / "two", [ok("fa2", 2e-3)])
    text = write_report([first, second], tmp_path / "report.md").read_text()
    assert "`fa2` |" in text and "(A)" not in text and "A: one" in text and "B: two" in text


@pytest.mark.parametrize("environment, records", [(H200, [ok("fa2", 2e-3)]), (LAPTOP, [ok("fa2", 2e-3, seqlen=64)])])
def test_other_runs_stand_side_by_side(tmp_path, environment, records):
    """The same case measured twice, and another machine: each run keeps its own column."""
    first = write_run(tmp_path / "a" / "run", [ok("fa2", 1e-3)])
    second = write_run(tmp_path / "b" / "run", records, environment)
    text = write_report([first, second], tmp_path / "report.md").read_text()
    assert "`fa2 (A)`" in text and "`fa2 (B)`" in text
    assert "2 records: " in text


def test_shapes_that_are_not_square(tmp_path):
    records = [ok("fa2", 1e-3, seqlen_q=1, seqlen_k=seqlen, seqlen=None) for seqlen in (1024, 2048)]
    text = report_of(tmp_path, records)
    assert cells(section(text, "### bf16").split("Time of")[0], "| 2k ")[:2] == ["1", "2k"]
    assert "constant: batch 4" in text.lower()


def test_grouped_heads_and_unequal_dims_in_the_title(tmp_path):
    text = report_of(tmp_path, [ok("fa2", 1e-3, num_heads_kv=4, head_dim=192, head_dim_v=128)])
    assert "### bf16, head_dim 192/128, full, 16 heads over 4 of k and v" in text


@pytest.mark.parametrize("records, words", [
    ([], "Nothing was timed."),
    ([unsupported("fa2", "needs a GPU")], "Nothing was checked."),
    ([ok("fa2", None)], "Nothing was timed."),
])  # fmt: skip
def test_little_to_report_is_still_a_report(tmp_path, records, words):
    text = report_of(tmp_path, records)
    assert words in text and "## Conventions" in text


def test_an_environment_that_says_nothing_says_so(tmp_path):
    machine = section(report_of(tmp_path, [ok("fa2", 1e-3)], {}), "## Machine")
    assert cells(machine, "CPU") == ["CPU", "not recorded"] and cells(machine, "GPU") == ["GPU", "not recorded"]


def test_text_from_records_cannot_break_the_page(tmp_path):
    hostile = "a | b <script> `c` *d* [e](f)\n```\n</details>"
    text = report_of(tmp_path, [failed("fa2", "exception", hostile, seqlen=64 * n) for n in (1, 2, 3)])
    assert cells(text, "exception")[2] == r"a \| b &lt;script&gt; \`c\` \*d\* \[e\](f)"
    assert "<script>" not in text.replace(fence(hostile), "")
    assert text.count("<details>") == len(re.findall(r"^</details>$", text.replace(fence(hostile), ""), re.MULTILINE))


def test_every_link_has_its_place(made):
    text = made.read_text()
    places = {anchor(line.lstrip("# ")) for line in text.splitlines() if re.match(r"#+ ", line)}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(links) >= 4 and links <= places
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (made.parent / path).is_file()


def test_large_reports_leave_the_full_figures_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report_speed, "MAX_FIGURE_ROWS", 3)
    monkeypatch.setattr(report_errors, "MAX_ERROR_ROWS", 3)
    text = report_of(tmp_path, made_records())
    assert "All figures" not in text and "Errors: bf16" not in text
    assert "13 measurements: all their figures are in `attnbench.load(run)`" in text
    assert "16 results were checked" in text


def test_plots_of_an_earlier_report_go(tmp_path):
    run = write_run(tmp_path / "run", made_records())
    write_report([run], tmp_path / "report.md")
    few = write_run(tmp_path / "few", [ok("fa2", 1e-3)])
    assert "![" not in write_report([few], tmp_path / "report.md").read_text()
    assert list(tmp_path.rglob("*.svg")) == []


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(StoreError, match="no such run directory"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.md")
    run = write_run(tmp_path / "run", [ok("fa2", 1e-3)])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the report"):
        write_report([run], tmp_path / "file" / "report.md")


@pytest.mark.parametrize("text, shown", [
    ("File /usr/lib/python3/x.py:3", "File x.py:3"),
    ("~/own/kernel.cu failed", "kernel.cu failed"),
    ("see https://example.org/a/b and 1/2, a/b", "see https://example.org/a/b and 1/2, a/b"),
    ("\x1b[31mred\x1b[0m at 0xdeadbeef", "red at 0x…"),
])  # fmt: skip
def test_anonymous(text, shown):
    assert anonymous(text) == shown


def test_markdown_pieces():
    assert table(["a", "b"], [["x|y", "1\n2"]]).splitlines()[2] == r"| x\|y | 1 2 |"
    assert plain("a_b") == r"a\_b"
    assert fence("```\nx\n```").startswith("````\n")
