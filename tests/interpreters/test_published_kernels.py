"""Adapters of published kernels and the page of them: constants, pins, verdicts; nothing is installed or run."""

import re
import sys

import pytest
from paths import ROOT

from attnbench.case import Case
from attnbench.interpreters.triton.language import TRIED
from attnbench.records.record import Accuracy, Check, Record
from benchmarks.published import page
from benchmarks.published.adapters import adapter_of, adapters

EVERY = adapters()
PAGE = (ROOT / page.PAGE).read_text()
# The rows of the table of kernels: package and version, kernel, verdict.
ROWS = re.findall(r"^\| (\S+ \S+) +\| `([^`]+)` +\| ([^|]+?) +\|", PAGE, re.MULTILINE)
CASE = {"batch": 1, "num_heads": 1, "head_dim": 64, "seqlen": 33}


@pytest.mark.parametrize("adapter", EVERY, ids=lambda adapter: adapter.name)
def test_an_adapter_pins_what_it_runs_with(adapter):
    for requirement in adapter.requirements:
        assert re.fullmatch(r"[\w.-]+==\d[\w.]*", requirement), requirement
    if adapter.language == "triton":
        assert adapter.triton in TRIED
    assert adapter.interpret in ("auto", "hlo", "tpu")
    assert adapter.kernels and adapter.about.endswith(".")


def test_there_are_many_projects():
    packages = {adapter.package[0] for adapter in EVERY if adapter.language == "triton"}
    assert len(packages) >= 15
    names = [kernel for adapter in EVERY for kernel in adapter.kernels]
    assert len(names) == len(set(names))


def test_the_page_has_every_kernel_at_its_version():
    assert PAGE.startswith(page.MARK)
    expected = [(" ".join(adapter.package), kernel) for adapter in EVERY for kernel in adapter.kernels]
    assert [row[:2] for row in ROWS] == expected


def test_a_wrong_kernel_is_confirmed_by_other_means():
    notes = {kernel: adapter.note for adapter in EVERY for kernel in adapter.kernels}
    wrong = [kernel for _, kernel, verdict in ROWS if page.WRONG in verdict.split(", ")]
    assert wrong and not [kernel for kernel in wrong if "fp64" not in notes[kernel]]


def test_an_adapter_without_exact_pins_is_refused(tmp_path):
    file = tmp_path / "triton_x.py"
    file.write_text('"""X."""\nPACKAGES = ("x>=1",)\n')
    with pytest.raises(ValueError, match="exact pins"):
        adapter_of(file)


def record(status, kind=None, reason="", kernel=None, error=1.0, **fields):
    case = {**CASE, **fields}
    accuracy = None
    if status in ("ok", "incorrect"):
        accuracy = Accuracy(
            "full", 33, (Check("max error", error if status == "incorrect" else 0.0, 0.5, status == "ok"),)
        )
    return Record(case=Case.make(**case), backend="k", backend_version="1", status=status, kind=kind,
                  reason=reason or ("" if status == "ok" else "why"), kernel=kernel, accuracy=accuracy)  # fmt: skip


OK = record("ok")
ZEROS = record("ok", kernel={"interpreted": {"defined": False, "undefined": ["x.py:3"]}})
WRONG = record("incorrect", reason="max error 1; likely cause: tail", seqlen=65)
ROUNDED = record("incorrect", reason="max error 1; likely cause: no row stands out: precision everywhere")
HAZARD = record("error", "hazard", "a load lies outside")


@pytest.mark.parametrize(
    ("records", "verdicts"),
    [
        ([OK], [page.RIGHT]),
        ([OK, record("unsupported")], [page.RIGHT]),
        ([OK, ZEROS], [page.ZEROS]),
        ([OK, WRONG], [page.WRONG]),
        ([OK, ROUNDED], [page.ROUNDING]),
        ([OK, ROUNDED, WRONG], [page.WRONG]),
        ([record("incorrect", reason="max error 1; likely cause: all rows are wrong; scale")], [page.ROUNDING]),
        ([record("incorrect", reason="max error 3; likely cause: all rows are wrong; scale", error=3.0)], [page.WRONG]),
        ([OK, HAZARD, WRONG], [page.WRONG, page.HAZARD]),
        ([record("error", "contract")], [page.INPUTS]),
        ([OK, record("error", "exception")], [page.RIGHT, page.RAISES]),
        ([record("error", "exception"), record("unsupported")], [page.NOT_RUN]),
        ([], [page.NOT_RUN]),
    ],
)
def test_the_verdict_follows_from_the_records(records, verdicts):
    assert page.Judged(EVERY[0], "k", tuple(records), "", "").verdicts == verdicts


def test_a_row_names_the_smallest_wrong_case_and_its_cause():
    larger = record("incorrect", reason="max error 1; likely cause: tail", seqlen=129)
    judged = page.Judged(EVERY[0], "k", (OK, HAZARD, ROUNDED, larger, WRONG), "2026-11-30", "")
    assert judged.smallest == WRONG and judged.cause == "tail"


def test_a_package_counts_once_by_its_worst_verdict():
    items = [page.Judged(EVERY[0], name, records, "", "") for name, records in (("a", (OK,)), ("b", (OK, HAZARD)))]
    other = page.Judged(EVERY[1], "c", (OK,), "", "")
    assert EVERY[0].package != EVERY[1].package
    assert page._counted([*items, other]) == "1 hazard, 1 right"


def test_a_kernel_takes_what_it_does_not_refuse(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "published"))
    from published_kernel import PublishedKernel

    kernel = PublishedKernel(
        name="k", package="p", attend=None, masks=("causal",), alignment="top_left", head_dims=(64,), dtypes=("bf16",),
        lengths=(32, 2),
    )  # fmt: skip
    assert kernel.unsupported(Case.make(**CASE | {"seqlen": 34}, causal=True)) is None
    refused = {
        "bf16 only": {"dtype": "fp16"},
        "causal attention only": {"causal": False},
        "head_dim 64 only": {"head_dim": 128},
        "aligned top left": {"seqlen_q": 34, "seqlen_k": 66},
        "multiples of 2": {"seqlen": 35},
    }
    for words, fields in refused.items():
        values = {**CASE, "seqlen": 34, "causal": True, **fields}
        if "seqlen_q" in values:
            del values["seqlen"]
        assert words in (kernel.unsupported(Case.make(**values)) or ""), words
    sys.modules.pop("published_kernel")
