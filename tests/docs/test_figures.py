"""Every measured figure in README.md and docs/index.md is the one of the committed record that stands beside it.

A sentence with figures is a template here, with the function that takes them from the record: `load` and the run's own
files, or what a benchmark wrote. A number with a unit that stands in no such sentence fails: write its template, or
leave the figure out.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

from attnbench import load

QUICK = "results/2026-11-26-quick-cpu"
EDGES = "results/2026-11-30-edges-triton-interpreted"
# What counts as a measured figure: a number with a unit of time, rate, size or ratio behind it, or an error.
UNIT = r"(?:ns|us|ms|s|min|minutes|seconds|%|x|times|TFLOPS|GFLOPS|TB/s|GB/s|MB|GB|MiB|GiB|of \d+)"
FIGURE = re.compile(rf"(?<![\w.])(?:\d+(?:\.\d+)? ?{UNIT}(?![\w/])|\d\.\d+e-\d+|\d+ (?:records|cases)\b)")


@cache
def records(run):
    return load(ROOT / run)


def how_many(run):
    frame = records(run)
    return len(frame), (frame.status == "ok").sum(), frame.median_s.notna().sum()


def duration_s(run):
    """From the first sentinel to the last."""
    at = [json.loads(line)["at_s"] for line in (ROOT / run / "sentinels.jsonl").read_text().splitlines()]
    return round(at[-1] - at[0])


def speedups(run, backend, over, dtype):
    """Of a backend over another: the geometric mean over cases that both were timed on, their number, the extremes."""
    frame = records(run)
    times = frame[frame["dtype"] == dtype].pivot_table(index="case_key", columns="backend", values="median_s")
    ratios = (times[over] / times[backend]).dropna()
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{mean:.2f}", len(ratios), f"{ratios.min():.2f}", f"{ratios.max():.2f}"


def e2_of_outliers(run):
    frame = records(run)
    frame = frame[(frame.inputs == "outliers") & (frame.backend == "fp8_emulated")].set_index("hadamard").e2
    return tuple(f"{frame[hadamard]:.1e}".replace("e-0", "e-") for hadamard in (False, True))


def published():
    """Packages that were judged, and how many are right, wrong, ... by the worst verdict of each."""
    (told,) = re.findall(r" of (\d+) packages\. Packages by their worst verdict: (.*)\.$",
                         (ROOT / "docs/published-kernels.md").read_text(), re.MULTILINE)  # fmt: skip
    verdicts = {verdict: times for times, _, verdict in (part.partition(" ") for part in told[1].split(", "))}
    named = ("right", "wrong", "hazard", "over the limits by rounding", "right only where masked lanes hold 0")
    return told[0], *(verdicts[verdict] for verdict in named)


def quoted_rows(page):
    """Rows of a table with figures, which a page has from the report of the run."""
    section = (ROOT / page).read_text().partition("\n## A first report\n")[2].partition("\n## ")[0]
    rows = [" ".join(line.split()) for line in section.splitlines() if line.startswith("|")]
    return [row for row in rows if re.match(r"\| \d", row)]


# (page, the sentence with {} for each figure, what they are)
SENTENCES = [
    ("README.md", "from the run in `results/2026-11-26-quick-cpu`. Of its {} records {} passed every check, {} of them "
     "timed.", lambda: how_many(QUICK)),
    ("README.md", "`cpu_flash` is {} times as fast as `naive` there (geometric mean of {} bf16 cases, {} to {} times).",
     lambda: speedups(QUICK, "cpu_flash", "naive", "bf16")),
    ("README.md", "is right in all of the {} cases of `edges` that it takes", lambda: how_many(EDGES)[1:2]),
    ("README.md", "Of {} published packages whose attention kernels were judged as they are, without a GPU, {} are "
     "right, {} wrong (a tail of keys that is not masked, a causal mask aligned on the other side), {} touches memory "
     "outside of its tensors, {} are over the limits by rounding, and {} are right only where masked lanes hold 0",
     published),
    ("docs/index.md", "{} records were checked and {} of them timed, in {} s from its first sentinel to its last.",
     lambda: (*how_many(QUICK)[1:], duration_s(QUICK))),
    ("docs/index.md", "falls from {} to {} (seqlen 512", lambda: e2_of_outliers(QUICK)),
]  # fmt: skip
# Figures that nobody measured: definitions.
STATED = {"docs/index.md": ("is over 1 %",)}
PAGES = ("README.md", "docs/index.md")


def text_of(page):
    """In one line, tables with single spaces."""
    return " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize(("page", "sentence", "figures"), SENTENCES, ids=range(len(SENTENCES)))
def test_a_figure_is_the_records(page, sentence, figures):
    assert sentence.format(*figures()) in text_of(page)


def test_rows_of_the_first_page_are_the_reports():
    """The report itself is held to its run by the tests of reports."""
    rows = quoted_rows("docs/index.md")
    assert len(rows) == 3
    report = text_of(f"reports/{Path(QUICK).name}.md")
    assert [row for row in rows if row not in report] == []


# Tables that a benchmark printed, kept with the machine and the command.
EQUAL_CODE = "benchmarks/measured/equal_code.md"


def measured_rows(page):
    """Rows of the page's table that stand in the benchmark's own, too."""
    kept = (ROOT / EQUAL_CODE).read_text().splitlines()
    return [" ".join(row.split()) for row in (ROOT / page).read_text().splitlines() if row[:1] == "|" and row in kept]


def test_the_table_of_equal_code_is_the_benchmarks():
    named = ("attnbench |", "pyperf |", "pytest-benchmark |", "asv |", "hyperfine |")
    starts = tuple(f"| {name}" for name in named)
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith(starts)]
    assert len(rows) == len(named) and len([row for row in measured_rows("README.md") if row in rows]) == len(named)


def uncovered(page, text):
    """Figures in a page that no sentence holds."""
    known = [sentence.format(*figures()) for where, sentence, figures in SENTENCES if where == page]
    for part in (*known, *quoted_rows(page), *measured_rows(page), *STATED.get(page, ())):
        text = text.replace(part, "")
    return FIGURE.findall(text)


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_stands_alone(page):
    assert uncovered(page, text_of(page)) == []


def test_figures_are_recognized():
    text = "1.98x, 3 %, 3% off, 2.5 times, 14 s, 0.5 ms, 7.2e-2, 59 records, 4 of 20, 12 GB/s"
    assert len(uncovered("README.md", text)) == 10
    assert uncovered("README.md", "8-bit, e4m3, sm_90a, Python 3.11, 2^31 elements, 128 columns, `x 3`, 4 heads") == []
    for page, sentence, figures in SENTENCES:
        wrong = sentence.format(*(re.sub(r"\d", lambda digit: str(9 - int(digit[0])), str(one)) for one in figures()))
        assert wrong not in text_of(page), "other figures do not pass"
