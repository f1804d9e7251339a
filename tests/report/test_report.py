"""The report: a golden file, equal bytes, and what each kind of record must make it say."""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from fakes.report_runs import H200, LAPTOP, accuracy, failed, incorrect, ok, unsupported, write_run
from paths import ROOT

from attnbench.markdown import anonymous, fence, plain, table
from attnbench.records import store
from attnbench.records.measurement import REFERENCE_PREP, Block, PrepTiming
from attnbench.records.stats import median_interval
from attnbench.records.store import StoreError
from attnbench.report import errors, failures, speed
from attnbench.report.failures import MAX_KEYS
from attnbench.report.page import write_report
from attnbench.report.summary import anchor

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


def standing(text: str, dtype: str, series: str) -> list[str]:
    """The row of a series in the summary's table of a dtype."""
    return cells(re.search(rf"^\*\*{dtype}\*\*.*?\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)[1], f"| {series} ")


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
        code = "import sys; from attnbench.report.page import write_report; write_report([sys.argv[1]], sys.argv[2])"
        command = [sys.executable, "-c", code, str(run), str(run.parent / "r.md")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        made.append(
            {path.name: path.read_bytes() for path in run.parent.rglob("*.*") if path.suffix in (".md", ".svg")}
        )
    assert made[0] == made[1]
    assert {"r.md", "tflops-bf16-1.svg", "error-bf16-1.svg", "tflops-e4m3-1.svg"} <= set(made[0])


def test_summary_counts_and_words(made):
    summary = section(made.read_text(), "## Summary")
    assert "23 records: 7 cases on 5 backends. 15 passed every check (13 timed), 1 incorrect, 3 errors" in summary
    headers, fa3 = standing(summary, "bf16", "backend"), standing(summary, "bf16", "`fa3`")
    assert headers == ["backend", "passed", "timed", "fastest in", "level in", "speedup over `fa2`", "highest TFLOPS",
                       "% of peak", "% of own GEMM", "error / limit", "failed", "unsupported"]  # fmt: skip
    # 134.2 TFLOPS at 1k and 4k, full: of 989.4, and of the GEMM's 750; 1.5e-3 of 3e-3
    assert fa3[:6] == ["`fa3`", "4 of 4", "4", "2, by 1.50x", "2", "1.50x"]
    assert fa3[6].startswith("134 ±") and fa3[7:] == ["14 %", "18 %", "0.50", "—", "—"]
    assert standing(summary, "bf16", "`naive`")[3:6] == ["0", "2", "1.49x"]
    assert standing(summary, "bf16", "`triton`")[-3:] == ["**13**", "**1 incorrect, 2 crash, 1 timeout**", "—"]
    assert "e4m3 is unsupported here in every case by `fa2`." in summary
    assert cells(summary, "bf16, head_dim 128, full")[2:5] == ["`fa3` 1 of 2, 1 level", "1.50x", "1.50x over `fa2`"]
    assert "`triton` incorrect in 1 case: mask: each query sees one key too few; `triton` crash in 2 cases" in summary
    assert "closest to its limit: relative RMSE of `naive` at 0.97 of it" in summary
    # kernel: 1 / 0.6; with prep: 1024 / (614.4 + 200) and 4096 / (2457.6 + 200), their geometric mean
    assert "`fa3` is 1.67x as fast as the fastest 16-bit backend" in summary
    assert "With prep + kernel it is 1.39x; its prep is its own quantize kernel." in summary


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
    assert "Prep of `fp8_emulated`: its own quantize kernel; Prep of `fa3`: prepare once, wall time, without" in text
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
    monkeypatch.setattr(failures, "MAX_MAPS", 3)
    monkeypatch.setattr(failures, "MAX_ROWS", 4)
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
    for samples, said in ((wide, ["0", "1"]), (narrow, ["1, by 1.06x", "0"])):
        blocks = [(Block(tuple(factor * sample for sample in samples), 60),) for factor in (1.0, 1.06)]
        records = [ok(name, 1.0, timing={"blocks": timed}) for name, timed in zip(("fa2", "fa3"), blocks)]
        text = section(report_of(tmp_path / said[1], records), "## Summary")
        assert standing(text, "bf16", "`fa2`")[3:5] == said


def test_a_third_that_may_be_the_fastest_makes_a_race_level(tmp_path):
    """The runner-up is clearly slower; the third is too by its median, which is not known well."""
    spread = tuple(1.06 * (1 + 0.05 * (index % 11 - 5)) for index in range(60))
    third = ok("fa3", 1.0, timing={"blocks": (Block(spread, 60),)})
    text = section(report_of(tmp_path, [ok("fa2", 1.0), ok("naive", 1.03), third]), "## Summary")
    assert [standing(text, "bf16", f"`{name}`")[3:5] for name in ("fa2", "naive", "fa3")] == [
        ["0", "1"], ["0", "0"], ["0", "1"],
    ]  # fmt: skip


def test_too_few_samples_for_an_interval_make_nobody_the_fastest_by_their_median(tmp_path):
    """Twenty samples in one block give no interval of the median; then percentiles that overlap are level."""
    spread, close = [1 + 0.02 * (index % 11 - 5) for index in range(20)], [1 + 1e-4 * index for index in range(20)]
    for samples, said in ((spread, ["0", "1"]), (close, ["1, by 1.06x", "0"])):
        blocks = [(Block(tuple(factor * sample for sample in samples), 20),) for factor in (1.0, 1.06)]
        records = [ok(name, 1.0, timing={"blocks": timed}) for name, timed in zip(("fa2", "fa3"), blocks)]
        text = report_of(tmp_path / said[1], records)
        assert standing(section(text, "## Summary"), "bf16", "`fa2`")[3:5] == said
        assert " ±? · " in cells(section(text, "### bf16"), "| 4k ", "·")[1] and "unknown" not in text


def test_intervals_over_one_percent_stand_beside_the_rate(tmp_path):
    samples = tuple(1 + 0.02 * (index % 11 - 5) for index in range(60))
    wide = ok("fa2", 1.0, timing={"blocks": (Block(samples, 60),)})
    half = median_interval(wide.measurement).half_width(statistics.median(samples))
    cell = cells(section(report_of(tmp_path, [wide]), "### bf16"), "| 4k ", "·")[1]
    assert half > 0.01 and f" ±{100 * half:.1f} %" in cell


def test_eight_bits_are_held_against_16_bits_of_the_same_machine_only(tmp_path):
    """The bf16 result of another card says nothing about this one's e4m3; a slow reference prep is named as such."""
    prep = {"prep_call": PrepTiming(REFERENCE_PREP, (3e-3,), 1, "cold")}
    here = write_run(tmp_path / "here", [ok("fa3", 1e-3, accuracy(0.03, 0.05), prep, dtype="e4m3")])
    for name, environment, found in (("same", H200, True), ("other", LAPTOP, False)):
        other = write_run(tmp_path / name, [ok("fa2", 2e-3)], environment)
        text = section(write_report([here, other], tmp_path / "report.md").read_text(), "## Summary")
        assert ("is 2.00x as fast as the fastest 16-bit" in text) == found
        assert ("it is 0.500x; its prep is attnbench's reference quantizer, which is not written" in text) == found


def test_the_later_record_of_a_case_counts(tmp_path):
    text = report_of(tmp_path, [failed("fa2", "oom", "full"), ok("fa2", 1e-3), ok("fa3", 2e-3)])
    assert "None: every case on every backend was checked and passed." in text
    assert standing(text, "bf16", "`fa2`")[:4] == ["`fa2`", "1 of 1", "1", "1, by 2.00x"]


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


OTHER_HOST = {**H200, "machine": "fingerprint of one with another CPU"}


@pytest.mark.parametrize("environment, records", [
    (H200, [ok("fa2", 2e-3)]), (LAPTOP, [ok("fa2", 2e-3, seqlen=64)]), (OTHER_HOST, [ok("fa2", 2e-3, seqlen=64)]),
])  # fmt: skip
def test_other_runs_stand_side_by_side(tmp_path, environment, records):
    """The same case measured twice, and another machine: each run keeps its own column."""
    first = write_run(tmp_path / "a" / "run", [ok("fa2", 1e-3)])
    second = write_run(tmp_path / "b" / "run", records, environment)
    text = write_report([first, second], tmp_path / "report.md").read_text()
    assert "`fa2 (A)`" in text and "`fa2 (B)`" in text
    assert "2 records: " in text
    assert [cells(section(text, "## Machine"), f"`fa2 ({letter})`")[1] for letter in "AB"] == ["1.0", "1.0"]


def test_races_and_speedups_of_the_summary_stay_within_a_run(tmp_path):
    """Runs were not interleaved with each other: each has a table, a winner and a baseline of its own."""
    first = write_run(tmp_path / "a", [ok("fa2", 2e-3), ok("fa3", 1e-3), ok("fa2", 1e-3, causal=True)])
    second = write_run(tmp_path / "b", [ok("fa2", 4e-3), ok("fa3", 1e-3)])
    text = section(write_report([first, second], tmp_path / "report.md").read_text(), "## Summary")
    for letter, factor in (("A", "2.00x"), ("B", "4.00x")):
        part = rf"bf16 \({letter}\)"
        assert standing(text, part, "backend")[5] == f"speedup over `fa2 ({letter})`"
        assert standing(text, part, f"`fa3 ({letter})`")[3:6] == [f"1, by {factor}", "0", factor]
    assert "Runs were not measured in turns: a difference across them may be the machine's" in text


def test_shapes_that_are_not_square(tmp_path):
    records = [ok("fa2", 1e-3, seqlen_q=1, seqlen_k=seqlen, seqlen=None) for seqlen in (1024, 2048)]
    text = report_of(tmp_path, records)
    assert cells(section(text, "### bf16").split("Time of")[0], "| 2k ")[:2] == ["1", "2k"]
    assert "constant: batch 4" in text.lower()


def test_grouped_heads_and_unequal_dims_in_the_title(tmp_path):
    text = report_of(tmp_path, [ok("fa2", 1e-3, num_heads_kv=4, head_dim=192, head_dim_v=128)])
    assert "### bf16, head_dim 192/128, full, 16 heads over 4 of k and v" in text
    one = report_of(tmp_path, [ok("fa2", 1e-3, num_heads=1)], name="one")
    assert "### bf16, head_dim 128, full, 1 head\n" in one


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
    assert cells(text, "| exception |")[2] == r"a \| b &lt;script&gt; \`c\` \*d\* \[e\](f)"
    assert "<script>" not in text.replace(fence(hostile), "")
    assert text.count("<details>") == len(re.findall(r"^</details>$", text.replace(fence(hostile), ""), re.MULTILINE))


def test_text_of_a_prep_cannot_break_the_page_either(tmp_path):
    prep = {"prep_call": PrepTiming("<b> of /home/me/own.py", (1e-4,), 1, "cold")}
    text = report_of(tmp_path, [ok("fa3", 1e-3, accuracy(0.03, 0.05), prep, dtype="e4m3"), ok("fa2", 1e-3)])
    assert "Prep of `fa3`: &lt;b&gt; of own.py:" in text and "its prep is &lt;b&gt; of own.py." in text


def test_the_gemm_of_the_sentinels_stands_with_the_machine_and_the_plugins_with_the_command(tmp_path):
    silent = {name: fact for name, fact in H200.items() if name != "sentinels"}
    run = write_run(tmp_path / "run", [ok("fa2", 1e-3)], {**silent, "plugins": ["/home/me/mine.py:mine"]})
    lines = [{"gemm_dtype": "bf16", "gemm_flops_per_s": rate} for rate in (700e12, 702e12, 708e12)]
    (run / store.SENTINELS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report([run], tmp_path / "report.md").read_text()
    assert cells(section(text, "## Machine"), "own bf16 GEMM")[1] == "702.0 TFLOPS"
    assert "attnbench run results/run/suite.yaml --plugin mine.py:mine    # suite made" in text


def test_every_link_has_its_place(made):
    text = made.read_text()
    places = {anchor(line.lstrip("# ")) for line in text.splitlines() if re.match(r"#+ ", line)}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(links) >= 4 and links <= places
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (made.parent / path).is_file()


def test_large_reports_leave_the_full_figures_out(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "MAX_FIGURE_ROWS", 3)
    monkeypatch.setattr(errors, "MAX_ERROR_ROWS", 3)
    text = report_of(tmp_path, made_records())
    assert "All figures" not in text and "Errors: bf16" not in text
    assert "13 measurements: all their figures are in `attnbench.load(run)`" in text
    assert "16 results were checked" in text


def test_figures_are_found_from_a_page_whose_name_has_blanks(tmp_path):
    run = write_run(tmp_path / "run", made_records())
    page = write_report([run], tmp_path / "my report (2).md")
    links = re.findall(r"^!\[.*\]\((.*)\)$", page.read_text(), re.MULTILINE)
    assert len(links) >= 4 and not any(set(link) & set(" ()") for link in links)
    assert all((tmp_path / unquote(link)).is_file() for link in links)


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


REPORTS = {"fa3-error-table-cpu": "*-fa3-*", "2026-11-21-quick-cpu": "2026-11-21-quick-cpu",
           "2026-11-25-quick-cpu": "2026-11-25-quick-cpu", "2026-11-26-quick-cpu": "2026-11-26-quick-cpu",
           "2026-11-30-quick-cpu": "2026-11-30-quick-cpu", "2026-11-30-cpu-peers": "2026-11-30-cpu-peers",
           "2026-11-30-edges-triton-interpreted": "2026-11-30-edges-triton-interpreted"}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_committed_reports_are_what_the_committed_runs_say(name, tmp_path):
    """Also those of runs from before later fields were recorded; `make reports` writes them anew."""
    runs = sorted((ROOT / "results").glob(REPORTS[name]))
    assert runs and [store.read(run).problems for run in runs] == [()] * len(runs)
    text = write_report(runs, tmp_path / f"{name}.md").read_text()
    assert text == (ROOT / "reports" / f"{name}.md").read_text()


def test_every_committed_report_is_tested():
    assert {path.stem for path in (ROOT / "reports").glob("*.md")} == set(REPORTS)


def test_both_speeds_of_a_call_that_has_two_are_shown(tmp_path):
    timing = {"blocks": (Block((1e-3, 2e-3) * 15, 30),), "flags": ("two_speeds",), "converged": False,
              "unmet": ("two speeds, 1.000 ms and 2.000 ms: the median between them is neither",)}  # fmt: skip
    run = write_run(tmp_path / "run", [ok("fa3", 1e-3, timing=timing), ok("fa2", 3e-3)])
    write_report([run], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "550 or 275 †" in text and "1.000 ms or 2.000 ms" in text and "1.500 ms" not in text
    assert "did not converge: two speeds, 1.000 ms and 2.000 ms" in text
