"""Floors: backends of one run held against each other, by the command line and by a suite."""

import itertools
import random
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from fakes.compared_runs import baseline, new_run, record, write_run
from fakes.report_runs import failed, incorrect

from attnbench.case import Case
from attnbench.cli.verbs import main
from attnbench.floor import Floor, FloorError, parse_floor, unknown
from attnbench.records.measurement import Block
from attnbench.suite.load import load_suite
from attnbench.suite.source import SuiteError


def call(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(("text", "floor"), [
    ("hopper >= 1.0 x fa3", Floor("hopper", 1.0, "fa3")),
    ("hopper[no_overlap]>=0.9x gemm", Floor("hopper[no_overlap]", 0.9, "gemm")),
    ("  cpu_flash >= 1.5 x naive geomean ", Floor("cpu_flash", 1.5, "naive", True)),
    ("a >= 2 x b where dtype=bf16,fp16,causal=True", Floor(
        "a", 2.0, "b", False, {"dtype": frozenset({"bf16", "fp16"}), "causal": frozenset({"true"})})),
    ("a >= 2 x b geomean where seqlen=4k", Floor("a", 2.0, "b", True, {"seqlen": frozenset({"4096"})})),
])  # fmt: skip
def test_a_floor_is_read(text, floor):
    assert parse_floor(text) == floor and parse_floor(str(floor)) == floor


@pytest.mark.parametrize(("text", "words"), [
    ("hopper > 1 x fa3", "is no floor; write NAME >= FACTOR x NAME"),
    ("hopper >= fast x fa3", "is no floor"),
    ("hopper >= 1.2.3 x fa3", "the factor 1.2.3 is no number above 0"),
    ("hopper >= 0 x fa3", "the factor 0 is no number above 0"),
    ("gemm >= 1 x hopper", "write it on the right"),
    ("hopper >= 1 x hopper", "holds hopper against itself"),
    ("a >= 1 x b where dtyp=bf16", 'no case field "dtyp" \\(did you mean "dtype"'),
    ("a >= 1 x b where bf16", 'no case field "bf16"'),
    ("", "is no floor"),
])  # fmt: skip
def test_what_is_none_says_so(text, words):
    with pytest.raises(FloorError, match=words):
        parse_floor(text)


def test_where_keeps_the_cases_that_it_names():
    case = Case.make(batch=1, num_heads=2, head_dim=64, seqlen=4096, dtype="fp16", causal=True)
    for where, takes in (("seqlen=4k", True), ("seqlen=4k,8k,dtype=fp16", True), ("causal=false", False),
                         ("num_heads=2,head_dim=128", False)):  # fmt: skip
        assert parse_floor(f"a >= 1 x b where {where}").takes(case) is takes


def in_turns(ratio, rounds=12, noise=0.0, drift=0.0, **fields):
    """Records of `fast` and `naive` that took turns; naive is `ratio` times as slow."""
    dice = random.Random(5)
    starts = itertools.count(1e9, 0.1)
    blocks = {"1": [], "2": []}
    for number in range(rounds):
        for arm in "1221":
            factor = (ratio if arm == "2" else 1.0) * (1 + drift * number) * (1 + noise * dice.gauss(0, 1))
            start_s = next(starts)
            samples = tuple(1e-3 * factor * each for each in (0.999, 1.0, 1.001))
            blocks[arm].append(Block(samples, 3, 0, number, arm, start_s, start_s + 0.1))
    timing = {"together": ("fast", "naive"), "order_seed": 3}
    return [record(name, 1e-3, timing, blocks[arm], **fields) for name, arm in (("fast", "1"), ("naive", "2"))]


def gate(path, records, *floors, more=()):
    run = write_run(path, records)
    return call("gate", run, *itertools.chain(*(("--at-least", floor) for floor in floors)), *more)


@pytest.mark.parametrize(("factor", "status", "words"), [
    (1.4, 0, "floors: 1 of 1 hold"), (1.6, 1, "does not hold"), (1.5, 0, "cannot be told"),
])  # fmt: skip
def test_a_floor_alone_needs_no_baseline(tmp_path, factor, status, words):
    done = gate(tmp_path / "run", in_turns(1.5, noise=0.01), f"fast >= {factor} x naive")
    assert done.returncode == status and words in done.stdout, done.stdout
    strict = call("gate", tmp_path / "run", "--at-least", f"fast >= {factor} x naive", "--strict")
    assert strict.returncode == (4 if factor == 1.5 else status)


def test_what_slows_both_counts_for_nothing(tmp_path):
    """A drift of 30 % over the rounds leaves their ratios alone; the medians' own intervals would not hold."""
    done = gate(tmp_path / "run", in_turns(1.1, noise=0.002, drift=0.03), "fast >= 1.08 x naive")
    assert done.returncode == 0 and "1 of 1 hold" in done.stdout


def test_a_mean_holds_where_a_case_does_not(tmp_path):
    records = [
        one for seqlen, ratio in ((512, 0.9), (1024, 1.5), (2048, 1.6)) for one in in_turns(ratio, seqlen=seqlen)
    ]
    assert gate(tmp_path / "each", records, "fast >= 1 x naive").returncode == 1
    done = gate(tmp_path / "mean", records, "fast >= 1 x naive geomean")
    assert done.returncode == 0
    done = gate(tmp_path / "where", records, "fast >= 1.4 x naive where seqlen=1k,2k")
    assert done.returncode == 0 and "floors: 2 of 2 hold" in done.stdout
    below = gate(tmp_path / "below", records, "fast >= 2 x naive geomean")
    assert below.returncode == 1 and "does not hold, geometric mean over 3: 1.29 times (1.29 to 1.29)" in " ".join(
        below.stdout.split()
    )


def test_stored_medians_are_as_far_apart_as_their_intervals_allow(tmp_path):
    def apart(name, time_s):
        blocks = [Block(tuple(time_s * each for each in (0.98, 1.0, 1.02)), 3, 0, n) for n in range(8)]
        return record(name, time_s, blocks=blocks)

    records = [apart("fast", 1e-3), apart("naive", 1.3e-3)]
    assert gate(tmp_path / "holds", records, "fast >= 1.2 x naive").returncode == 0
    few = [record("fast", 1e-3), record("naive", 1.3e-3)]
    done = gate(tmp_path / "few", few, "fast >= 1.2 x naive")
    assert done.returncode == 0 and "cannot be told" in done.stdout and "interval unknown" in done.stdout


def test_beside_a_gemm(tmp_path):
    records = in_turns(1.5)
    run = write_run(tmp_path / "run", records)
    case = records[0].case
    rate = 4 * case.batch * case.num_heads * case.seqlen_q * case.seqlen_k * case.head_dim / 1e-3
    rate = rate / 2 if case.causal else rate
    rows = [f'{{"role": "start", "gemm_flops_per_s": {rate * factor}}}' for factor in (1.95, 2.0, 2.05)]
    (run / "sentinels.jsonl").write_text("\n".join(rows) + "\n")
    assert call("gate", run, "--at-least", "fast >= 0.45 x gemm").returncode == 0
    assert call("gate", run, "--at-least", "fast >= 0.55 x gemm").returncode == 1
    assert call("gate", run, "--at-least", "fast >= 0.5 x gemm", "--strict").returncode == 4


def test_beside_a_baseline_both_count(tmp_path):
    base, new = baseline(tmp_path / "base"), new_run(tmp_path / "new")
    assert call("gate", base, new, "--at-least", "naive >= 1.5 x hopper[ws]").returncode == 0
    done = call("gate", base, new, "--at-least", "naive >= 3 x hopper[ws] geomean", "--junit", tmp_path / "j.xml")
    assert done.returncode == 0 and "cannot be told" in done.stdout  # three samples a record say nothing of the median


def test_a_failing_floor_is_in_what_ci_systems_read(tmp_path):
    junit = tmp_path / "j.xml"
    done = gate(tmp_path / "run", in_turns(0.5), "fast >= 1 x naive", more=("--junit", junit, "--github"))
    assert done.returncode == 1 and "::error title=attnbench gate::fast >= 1 x naive: does not hold" in done.stdout
    assert 'failures="1"' in junit.read_text() and "fast &gt;= 1 x naive" in junit.read_text()


def test_wrong_and_failed_records_count_without_a_baseline_too(tmp_path):
    records = in_turns(2.0)
    done = gate(tmp_path / "wrong", [*records, incorrect("triton")], "fast >= 1 x naive")
    assert done.returncode == 1 and "triton on " in done.stdout
    assert (
        gate(tmp_path / "failed", [*records, failed("triton", "crash", "signal 11")], "fast >= 1 x naive").returncode
        == 3
    )


def test_nothing_to_compare_is_incomplete(tmp_path):
    done = gate(tmp_path / "run", in_turns(2.0), "fast >= 1 x naive where seqlen=7")
    assert done.returncode == 3 and "no case was timed with both" in done.stdout
    assert gate(tmp_path / "none", in_turns(2.0), "fast >= 1 x gemm").returncode == 3  # no sentinels


@pytest.mark.parametrize(("arguments", "words"), [
    (["--at-least", "fas >= 1 x naive"], 'the run has no backend "fas" (did you mean "fast"?)'),
    (["--at-least", "fast >= 1 x nativ"], 'the run has no backend "nativ"'),
    (["--at-least", "fast >= 1"], "is no floor; write NAME >= FACTOR x NAME"),
    ([], "alone is held against nothing; name BASE too, or a floor"),
])  # fmt: skip
def test_mistakes_are_one_line(tmp_path, arguments, words):
    run = write_run(tmp_path / "run", in_turns(2.0))
    done = call("gate", run, *arguments)
    assert done.returncode == 2 and words in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert call("gate", run, run, run).returncode == 2


def test_unknown_names_the_first():
    assert unknown([parse_floor("a >= 1 x gemm"), parse_floor("a >= 1 x b")], ["a"]) == (
        '"a >= 1 x b": the run has no backend "b"; there are a'
    )


SUITE = """name: floors
backends: [fast, naive]
at_least: ["fast >= 3 x naive", {more}]
groups:
  - {{name: one, axes: {{batch: 1, num_heads: 2, seqlen: 128, head_dim: 64}}}}
"""


def test_a_suite_sets_floors_for_every_run_of_it(tmp_path):
    file = tmp_path / "floors.yaml"
    file.write_text(SUITE.format(more="fast >= 0.5 x gemm geomean"))
    suite = load_suite(file)
    assert suite.at_least == ("fast >= 3 x naive", "fast >= 0.5 x gemm geomean")
    again = tmp_path / "again.yaml"
    again.write_text(suite.to_yaml())
    assert load_suite(again).at_least == suite.at_least
    run = write_run(tmp_path / "run", in_turns(2.0))
    (run / "suite.yaml").write_text(yaml.dump({"name": "floors", "at_least": ["fast >= 3 x naive"]}))
    done = call("gate", run)
    assert done.returncode == 1 and "fast >= 3 x naive: does not hold" in " ".join(done.stdout.split())
    (run / "suite.yaml").write_text(yaml.dump({"name": "floors", "at_least": ["fast over naive"]}))
    done = call("gate", run)
    assert done.returncode == 3 and 'suite.yaml: at_least: "fast over naive" is no floor' in " ".join(
        done.stdout.split()
    )
    file.write_text(SUITE.format(more="fast 2 x naive"))
    with pytest.raises(SuiteError, match=r'floors.yaml:3: "fast 2 x naive" is no floor; write NAME'):
        load_suite(file)
