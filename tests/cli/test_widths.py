"""Every verb that prints a table, on narrow terminals: no line is wider, and no name is broken."""

import re

import numpy
import pytest
from click.testing import CliRunner
from fakes.compared_runs import baseline, new_run, suite
from fakes.report_runs import LAPTOP, failed, incorrect, ok, write_run

from attnbench.claims.ledger import papers
from attnbench.claims.page import claims_lines, claims_page
from attnbench.cli import doctor, listing, main
from attnbench.cli.running.terminal import watched
from attnbench.correctness.probes import PROBES
from attnbench.machine.findings import ADVICE, PROBLEM, Finding
from attnbench.selftest import runner

WIDTHS = [60, 80]
KEY = re.compile(r"\b(?:bf16|fp16|e4m3)-d\d+-h\S+\.\d+")


def lines_of(width, *arguments):
    done = CliRunner().invoke(main, list(map(str, arguments)), env={"COLUMNS": str(width)})
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit), done.exception
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """A baseline, and a run with a wrong, a crashed and slower results."""
    folder = tmp_path_factory.mktemp("sides")
    records = suite(numpy.random.default_rng(99), change=lambda backend, seqlen: 1.3 if seqlen == 1024 else 1.0)
    lengths = [record.case.seqlen_k for record in records]
    records[0] = incorrect(records[0].backend, "mask: each query sees one key too few", seqlen=lengths[0])
    records[1] = failed(records[1].backend, "crash", "killed by SIGSEGV " * 9, seqlen=lengths[1])
    base = baseline(folder / "base")
    return base, new_run(folder / "new", records=records), {record.case_key for record in records}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", ["compare", "gate"])
def test_comparisons(width, verb, sides):
    base, new, keys = sides
    lines = lines_of(width, verb, base, new)
    paths = [line for line in lines if str(new) in line or str(base) in line]  # a path has no blank to break at
    assert max(len(line.rstrip()) for line in lines if line not in paths) <= width
    assert {found for line in lines for found in KEY.findall(line)} == keys


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("what", list(listing.LISTINGS))
def test_lists(width, what):
    lines = lines_of(width, "list", what)
    assert max(map(len, lines)) <= width
    names = [line.split()[0] for line in lines_of(400, "list", what)]
    begun = [line.split()[0] for line in lines if not line.startswith((" ", "("))]
    assert begun == names


def test_a_reason_that_many_share_stands_once():
    reason = "not here: no NVIDIA GPU on this machine; it needs a Hopper GPU (H100, H200)"
    rows = [("hopper", "cuda", reason), ("hopper[ws]", "cuda", reason), ("naive", "cpu", "available (torch 2)")]
    runner_ = CliRunner()
    with runner_.isolation(env={"COLUMNS": "60"}):
        assert list(listing._columns(rows, noted=True)) == [
            "hopper      cuda  not here (1)",
            "hopper[ws]  cuda  not here (1)",
            "naive       cpu   available (torch 2)",
            "(1) not here: no NVIDIA GPU on this machine; it needs a",
            "    Hopper GPU (H100, H200)",
        ]
    with runner_.isolation(env={"COLUMNS": None}):
        assert next(listing._columns(rows, noted=True)) == f"hopper      cuda  {reason}"


@pytest.mark.parametrize("width", WIDTHS)
def test_doctor(width, monkeypatch):
    names = ", ".join(f"a_backend_{place}" for place in range(20))
    install, wait = "pip install " + "a-package " * 12, "top -o %CPU, then wait or end it, until nothing else runs here"
    found = [
        Finding(ADVICE, f"{names}: not installed", "The run goes on without it. " * 5, install),
        Finding(PROBLEM, "load", "Other work.", wait),
    ]
    monkeypatch.setattr(doctor, "TOPICS", (lambda: found,))
    lines = lines_of(width, "doctor")
    assert max(map(len, lines)) <= width
    start = next(place for place, line in enumerate(lines) if "-> pip" in line)
    assert lines[start].endswith(" \\") and "".join(lines).count("a-package") == 12


def test_doctor_names_a_kernel_and_counts_its_schedules():
    assert doctor.without_schedules(["naive", "hopper", "hopper[ws]", "hopper[simple]", "fa2"]) == [
        "naive", "hopper (and 2 schedules)", "fa2",
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_claims(width, tmp_path):
    run = write_run(tmp_path / "run", [ok("naive", 1e-3)], LAPTOP, "quick")
    lines = list(claims_lines(width, [run]))
    assert max(map(len, lines)) <= width
    said, page = " ".join(" ".join(lines).split()), claims_page([run])
    for paper in papers():
        for claim in paper.claims:
            assert " ".join(claim.claim.replace("`", "").split()) in said and claim.source in page


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_the_matrix_of_the_selftest(width):
    rows = {("bf16", "mask sees one more"): dict.fromkeys([runner.OWN, *PROBES], ""),
            ("e4m3", "keys at stride of queries"): {runner.OWN: "max error"}}  # fmt: skip
    matrix = runner.matrix(runner.Findings(caught=rows), width)
    cells = [line for line in matrix if not line.startswith(("columns", "cells"))]
    assert max(map(len, cells)) <= (width or 200)
    numbers = [int(number) for line in cells if not line.strip()[0].isalpha() for number in line.split()]
    assert numbers == list(range(1, len(PROBES) + 2))
    assert sum(line.count("  .") for line in cells) == len(PROBES) + 1


def test_what_is_watched_is_handed_on():
    assert list(watched(iter("abc"), 3)) == ["a", "b", "c"]
