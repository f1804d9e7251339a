"""The ledger of claims: the committed page, the claims as data, each measure's arithmetic, what may stand together."""

import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fakes.report_runs import H200, LAPTOP, accuracy, incorrect, ok, unsupported, write_run
from paths import ROOT

from attnbench.backends import builtin
from attnbench.case import compulsory_bytes
from attnbench.claims.ledger import papers
from attnbench.claims.measures import MEASURES, SIZES, find
from attnbench.claims.page import MARK, NOT_RUN, claims_page
from attnbench.cli import main
from attnbench.records.environment import Machine
from attnbench.records.result import Result
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import parse_only

CLAIMS = [claim for paper in papers() for claim in paper.claims]
COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("20??-??-??-*/records.jsonl"))
# What an emulated launch counts: design of the record.
COUNTED = {"global_read_bytes", "global_write_bytes", "reread", "tensor_flops", "useful_flops", "exponentials"}


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_committed_page_is_what_the_committed_runs_give():
    assert COMMITTED and (ROOT / "docs" / "claims.md").read_text() == claims_page(COMMITTED), "run `make claims`"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim[:40])
def test_a_claim_names_what_there_is(claim):
    assert claim.source and claim.comparable and set(claim.counted) <= COUNTED
    if claim.suite is not None:
        assert with_overrides(load_suite(claim.suite), only=tuple(map(parse_only, claim.only))).jobs()
    if claim.measure is not None:
        assert claim.suite is not None and claim.measure["kind"] in MEASURES
        sides = [claim.measure[side] for side in ("of", "over") if isinstance(claim.measure.get(side), dict)]
        named = {*claim.measure.get("backends", ()), *(side["backend"] for side in sides)}
        assert named <= set(builtin())
        for side in sides:
            asked = (*claim.only, *side.get("only", ()))
            assert with_overrides(load_suite(claim.suite), only=tuple(map(parse_only, asked))).jobs()
        assert set(claim.measure.get("sum", ())) <= set(claim.counted)
        assert claim.measure["kind"] != "counted" or claim.measure["over"] in SIZES


def cells(*records, environment=LAPTOP):
    machine = Machine.of(environment)
    return {(record.case, record.backend): Result.of(record, "run", machine) for record in records}


def words(spec, *records, **fields):
    found = find(cells(*records, **fields), spec)
    return None if found is None else found.words


def test_passed():
    spec = {"kind": "passed", "backends": ["flash", "mine"]}
    assert words(spec, ok("naive", 1), unsupported("flash", "no")) is None
    records = [ok("flash", 1, accuracy(1.5e-3, 3e-3)), incorrect("flash", seqlen=8), ok("naive", 1)]
    assert words(spec, *records) == ("1 of 2 results of `flash` passed every check; their worst error / limit: 0.50")


def held(backend, seqlen, peak):
    return ok(backend, 1e-3, timing={"peak_bytes": peak}, seqlen=seqlen, head_dim=64)


def test_memory():
    lengths = (256, 512, 1024)
    records = [held("naive", n, 16 * n * n) for n in lengths] + [held("flash", n, 2048 * n) for n in lengths]
    found = words({"kind": "memory_growth", "backends": ["flash", "naive"]}, *records)
    assert found == (
        "`flash`, head_dim 64: seqlen^1.00 (1.00 to 1.00; 256 to 1k tokens); "
        "`naive`, head_dim 64: seqlen^2.00 (2.00 to 2.00; 256 to 1k tokens)"
    )
    ratio = {"kind": "memory_ratio", "of": {"backend": "naive"}, "over": {"backend": "flash"}}
    assert words(ratio, *records).startswith("up to 8.00 times less (`flash` against `naive`, `bf16-d64-h16-b4-q1024-")
    assert words(ratio, ok("naive", 1), ok("flash", 1)) is None


def test_speedup_and_rate():
    records = [ok("slow", 4e-3, seqlen=512), ok("fast", 1e-3, seqlen=512), ok("slow", 1e-3), ok("fast", 1e-3),
               ok("fast", None, seqlen=64), ok("slow", 1e-3, seqlen=64)]  # fmt: skip
    spec = {"kind": "speedup", "of": {"backend": "fast"}, "over": {"backend": "slow"}}
    assert words(spec, *records) == "`fast` over `slow`: 2.00 (geometric mean; 1.00 to 4.00 over 2 cases)"
    best = words({"kind": "rate", "backends": ["fast"]}, *records, environment=H200)
    flops = 4 * 4096**2 * 128 * 16 * 4
    assert best.startswith(
        f"`fast`: {flops / 1e-3 / 1e12:.0f} TFLOPS, {flops / 1e-3 / 989.4e12 * 100:.0f} % of the peak"
    )
    assert "of the peak" not in words({"kind": "rate", "backends": ["fast"]}, *records)


def drawn(backend, value, seed, **fields):
    return ok(backend, None, accuracy(rmse_drawn=value), dtype="e4m3", seed=seed, **fields)


RATIO = {
    "kind": "error_ratio",
    "values": {"rmse_drawn": "drawn"},
    "of": {"backend": "plain", "only": ["scaling=tensor"]},
    "over": {"backend": "scheme", "only": ["scaling=block", "hadamard=true"]},
}


def test_errors_pair_by_their_inputs():
    records = [
        drawn("plain", 0.02, 0, scaling="tensor"), drawn("scheme", 0.01, 0, scaling="block", hadamard=True),
        drawn("plain", 0.06, 1, scaling="tensor"), drawn("scheme", 0.02, 1, scaling="block", hadamard=True),
        drawn("scheme", 0.001, 1, scaling="tensor"), drawn("plain", 9.0, 2, scaling="tensor"),
    ]  # fmt: skip
    assert words(RATIO, *records) == "2.50 (mean; 2.00 to 3.00) drawn; 2 seeds, seqlen 4k"
    assert words(RATIO, *records[:1]) is None


def test_counts_over_a_size_of_the_case():
    def counted(**counts):
        record = ok("emulated", None)
        return replace(record, kernel={"emulated": {"mode": "checked"}, "counted": counts})

    record = counted(global_read_bytes=3_000_000_000, global_write_bytes=1_000_000_000, exponentials=8 * 4096**2 * 64)
    spec = {
        "kind": "counted",
        "sum": ["global_read_bytes", "global_write_bytes"],
        "over": "compulsory_bytes",
        "words": "x",
    }
    ratio = 4e9 / compulsory_bytes(record.case)
    assert words(spec, record, ok("naive", None)) == f"x: `emulated`: {ratio:.1f} to {ratio:.1f} over 1 case"
    scores = {"kind": "counted", "sum": ["exponentials"], "over": "scores", "words": "a score"}
    assert words(scores, record) == "a score: `emulated`: 8.00 to 8.00 over 1 case"
    assert words(spec, counted(exponentials=1)) is None


def row_of(page, start):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def run(path, records, suite, date):
    return write_run(path, records, {**LAPTOP, "collected_utc": date}, suite)


EXACT, FASTER = "attention is exact", "up to 3 times as fast"


def test_the_latest_run_of_the_suite_answers_and_speeds_of_two_runs_never_meet(tmp_path):
    old = run(tmp_path / "b", [ok("cpu_flash", 1e-3), ok("naive", 3e-3)], "quick", "2026-01-01")
    new = run(tmp_path / "a", [ok("cpu_flash", 2e-3)], "quick", "2026-02-01")
    other = run(tmp_path / "c", [incorrect("cpu_flash")], "edges", "2026-03-01")
    page = claims_page([new, other, old])
    assert row_of(page, EXACT)[-2:] == ["1 of 1 result of `cpu_flash` passed every check; their worst error / limit: "
                                        "0.67", "`results/a`"]  # fmt: skip
    assert row_of(page, FASTER)[-2:] == ["`cpu_flash` over `naive`: 3.00 (geometric mean; 3.00 to 3.00 over 1 case)",
                                         "`results/b`"]  # fmt: skip
    apart = run(tmp_path / "d", [ok("naive", 3e-3)], "quick", "2026-01-01")
    assert row_of(claims_page([new, apart]), FASTER)[-2:] == [NOT_RUN, ""]
    assert claims_page([old, new, other]) == page


def test_errors_on_the_same_inputs_may_stand_in_two_runs(tmp_path):
    one = [drawn("fp8_baseline", 0.05, 0, scaling="tensor")]
    two = [drawn("fp8_emulated", 0.02, 0, scaling="block", hadamard=True)]
    runs = [
        run(tmp_path / name, records, "fa3_error_table", "2026-01-01") for name, records in (("a", one), ("b", two))
    ]
    said = "2.50 (mean; 2.50 to 2.50) against fp64 on the inputs before rounding; 1 seed, seqlen 4k"
    assert row_of(claims_page(runs), "RMSE of FP8")[-2:] == [said, "`results/a`, `results/b`"]
    assert row_of(claims_page(runs[:1]), "RMSE of FP8")[-2] == NOT_RUN


def test_without_runs_every_claim_stands_and_none_is_answered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("claims")
    assert done.exit_code == 0 and done.output.startswith(MARK)
    assert len(re.findall(rf"\| {NOT_RUN} +\|", done.output)) == len(CLAIMS) > 15
    run(tmp_path / "results" / "x", [ok("cpu_flash", 1e-3)], "quick", "2026-01-01")
    assert "`results/x`" in call("claims").output


def test_mistakes_are_one_line(tmp_path):
    for path, said in ((tmp_path, "not a run directory"), (tmp_path / "none", "no such run directory")):
        done = call("claims", path)
        assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    done = call("claims", COMMITTED[0], "-o", mine)
    assert done.exit_code == 2 and "--overwrite" in done.stderr and mine.read_text() == "# Mine\n"
    assert call("claims", COMMITTED[0], "-o", mine, "--overwrite").exit_code == 0 and mine.read_text().startswith(MARK)
    assert call("claims", COMMITTED[0], "-o", mine).exit_code == 0
