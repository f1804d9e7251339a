"""compare and gate as a user calls them: what each situation is called, what is printed, and the exit status."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import numpy
import pytest
from click.testing import CliRunner
from fakes.compared_runs import MACHINE, SEQLENS, baseline, card, new_run, record, suite, turns, write_run
from fakes.report_runs import H200, LAPTOP, accuracy, failed, incorrect, ok, unsupported

from attnbench.cli.verbs import main
from attnbench.compare.pairs import pair_of_turns
from attnbench.records.measurement import Block, Conditions
from attnbench.records.record import Accuracy, Check


def call(*arguments, env=None):
    result = CliRunner().invoke(main, list(map(str, arguments)), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return baseline(tmp_path_factory.mktemp("baseline") / "base")


def changed(**by_index):
    """NEW's records with some replaced, by their place (`r3=record`), or taken out (None)."""
    records = suite(numpy.random.default_rng(99))
    for name, replacement in by_index.items():
        records[int(name[1:])] = replacement
    return [one for one in records if one is not None]


def slower(factor, which=2048):
    return lambda backend, seqlen: factor if (backend, seqlen) == ("naive", which) else 1.0


def test_the_same_code_passes(base, tmp_path):
    done = call("gate", base, new_run(tmp_path / "new"))
    assert done.returncode == 0, done.stdout
    assert "10 same, of 10 cases" in done.stdout and "exit status 0: no regression\n" in done.stdout
    assert re.search(r"geometric mean: -0\.00 % \(90 % interval -0\.\d\d % to \+0\.\d\d %\): same", done.stdout)


def test_a_slower_case_is_a_regression_and_comes_first(base, tmp_path):
    new = new_run(tmp_path / "new", change=slower(1.05))
    done = call("gate", base, new)
    assert done.returncode == 1 and "1 slower, 9 same" in done.stdout
    first = next(line for line in done.stdout.splitlines() if "bf16-" in line)
    assert re.search(r"q2048-k2048.*naive .*\+4\.9\d %.*slower +at least \+4\.\d\d %, margin 1 %", first)
    assert call("compare", base, new).returncode == 0  # compare tells, gate decides
    wide = call("gate", base, new, "--margin", "10%")
    assert wide.returncode == 0 and "margin: 10 % as asked" in wide.stdout


def test_a_faster_case_passes(base, tmp_path):
    done = call("gate", base, new_run(tmp_path / "new", change=slower(0.9)))
    assert done.returncode == 0 and "1 faster, 9 same" in done.stdout


def test_many_small_losses_are_seen_in_the_mean(tmp_path):
    """Each case stays under what it could prove alone; the suite does not."""
    base = baseline(tmp_path / "base", runs=6, own=0.004)
    records = suite(numpy.random.default_rng(99), own=0.004, change=lambda backend, seqlen: 1.015)
    done = call("gate", base, new_run(tmp_path / "new", records=records))
    assert done.returncode == 1 and "slower" not in done.stdout.splitlines()[1]
    assert "the suite as a whole is slower: geometric mean at least +1." in done.stdout
    path = tmp_path / "gate.xml"
    assert call("gate", base, tmp_path / "new", "--junit", path).returncode == 1
    (case,) = ElementTree.parse(path).getroot().find("testsuite[@name='comparison']")
    assert case.get("name") == "the run as a whole" and case.find("failure").get("type") == "slower"


# name: (NEW's records, exit status, what is printed)
SITUATIONS = {
    "wrong now": ({"r3": incorrect("naive", seqlen=4096)}, 1,
                  ["1 incorrect", "was right, is incorrect: relative RMSE"]),
    "a hazard": ({"r3": failed("naive", "hazard", "race at x.cu:1: overwrites", seqlen=4096)}, 1,
                 ["has a hazard: race at x.cu:1: overwrites"]),
    "crashed": ({"r3": failed("naive", "crash", "killed by SIGSEGV\ntail", seqlen=4096)}, 3,
                ["1 error", "crash: killed"]),
    "not measured": ({"r3": None}, 3, ["1 missing", "in the baseline, and not measured"]),
    "unsupported now": ({"r3": unsupported("naive", "takes no q4096", seqlen=4096)}, 3, ["unsupported now: takes no"]),
    "checked only": ({"r3": ok("naive", None, seqlen=4096)}, 3, ["1 missing", "checked, and not timed"]),
    "a further case": ({"r3": record("naive", 0.01678, seqlen=4096), "r4": record("naive", 0.0671, seqlen=8192),
                        "r0": record("naive", 0.000262, seqlen=512)}, 0, ["10 same"]),
    "wrong and missing": ({"r3": incorrect("naive", seqlen=4096), "r4": None}, 1, ["1 incorrect", "1 missing"]),
    "another regime": ({"r3": record("naive", 0.0168, {"regime": "burst"}, seqlen=4096)}, 3,
                       ["1 not comparable", "regime: sustained before, burst now"]),
    "another cache and timer": ({"r3": record("naive", 0.0168, {"cache": "warm", "timer": "graph"}, seqlen=4096)}, 3,
                                ["timer: events before, graph now; cache: cold before, warm now"]),
    "other inputs": ({"r3": record("naive", 0.0168, seqlen=4096, inputs="outliers")}, 3,
                     ["1 not comparable", "inputs: normal.0 before, outliers.0 now", "1 new"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(name, base, tmp_path):
    replaced, status, said = SITUATIONS[name]
    done = call("gate", base, new_run(tmp_path / "new", records=changed(**replaced)))
    assert done.returncode == status, done.stdout
    for text in said:
        assert text in done.stdout


def test_new_cases_are_told_and_pass_unless_wrong(base, tmp_path):
    records = [*changed(), record("naive", 1.0, seqlen=128)]
    done = call("gate", base, new_run(tmp_path / "right", records=records))
    assert done.returncode == 0 and "10 same, 1 new" in done.stdout
    records[-1] = incorrect("naive", seqlen=128)
    done = call("gate", base, new_run(tmp_path / "wrong", records=records))
    assert done.returncode == 1 and "not in the baseline, is incorrect" in done.stdout


MACHINES = {
    "power limit": ({"gpu": {**H200["gpu"], "power_limit_w": 500}}, "power limit (W): 700 before, 500 now"),
    "another GPU": ({"gpu": {**H200["gpu"], "name": "NVIDIA A100"}}, "GPU: NVIDIA H200 before, NVIDIA A100 now"),
    "the CPU": ({"device": "cpu", "gpu": None}, "device: cuda before, cpu now"),
    "another machine": ({"machine": "ffff"}, "machine: 0123456789abcdef before, ffff now"),
    "clock policy": ({"gpu": {**H200["gpu"], "max_sm_clock_mhz": 1755}},
                     "maximum SM clock (MHz): 1980 before, 1755 now"),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_runs_that_are_not_comparable(name, base, tmp_path):
    environment, reason = MACHINES[name]
    new = new_run(tmp_path / "new", {**MACHINE, **environment})
    done = call("gate", base, new)
    assert done.returncode == 3 and "10 not comparable, of 10 cases" in done.stdout and reason in done.stdout
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    forced = call("gate", base, new, "--force", "--github", "--junit", junit, env={"GITHUB_STEP_SUMMARY": str(summary)})
    assert forced.returncode == 0 and "10 same" in forced.stdout
    stamp = "FORCED: not comparable, and compared nevertheless: "
    assert forced.stdout.startswith(stamp) and "::warning title=attnbench gate%3A forced::" in forced.stdout
    for text in (forced.stdout, junit.read_text(), summary.read_text()):
        assert "FORCED" in text and reason.split(":")[0].split(" (")[0] in text


def test_a_run_that_was_resumed_elsewhere_is_comparable_with_neither(base, tmp_path):
    """Half of its records are of another power limit, and nothing says which."""
    limited = {**MACHINE, "gpu": {**H200["gpu"], "power_limit_w": 500}}
    done = call("gate", base, new_run(tmp_path / "new", {**MACHINE, "resumed": [MACHINE, limited]}))
    assert done.returncode == 3 and "power limit (W): 700 before, 500 now" in done.stdout
    assert call("gate", base, new_run(tmp_path / "again", {**MACHINE, "resumed": [MACHINE]})).returncode == 0


def test_a_clock_policy_of_a_cpu_is_compared(tmp_path):
    laptop = {**LAPTOP, "device": "cpu", "machine": "aa"}
    base = baseline(tmp_path / "base", environment={**laptop, "cpu": {**LAPTOP["cpu"], "governor": "performance"}})
    new = new_run(tmp_path / "new", {**laptop, "cpu": {**LAPTOP["cpu"], "governor": "powersave"}})
    done = call("gate", base, new)
    assert done.returncode == 3 and "clock policy: performance before, powersave now" in done.stdout


def test_what_only_one_side_recorded_is_told_and_forbids_nothing(base, tmp_path):
    gpu = {name: value for name, value in H200["gpu"].items() if name != "power_limit_w"}
    done = call("gate", base, new_run(tmp_path / "new", {**MACHINE, "gpu": gpu, "versions": {"torch": "2.14.0"}}))
    assert done.returncode == 0
    assert "note: power limit (W): 700 before, not recorded now" in done.stdout
    assert "note: torch: 2.13.0 before, 2.14.0 now" in done.stdout


def test_a_machine_in_another_state_is_told(base, tmp_path):
    done = call("gate", base, new_run(tmp_path / "new", {**MACHINE, "sentinels": {"gemm_flops_per_s": 720e12}}))
    assert done.returncode == 0 and "note: the machine's own GEMM: -4.0 % in rate" in done.stdout


def test_a_suspect_run_gives_no_verdict_on_times(base, tmp_path):
    new = new_run(tmp_path / "new", {**MACHINE, "suspect": "the GEMM sentinel drifted by 3 %"}, change=slower(1.5))
    done = call("gate", base, new)
    assert done.returncode == 0 and "10 inconclusive" in done.stdout
    assert "new is marked suspect: the GEMM sentinel drifted by 3 %" in done.stdout
    forced = call("gate", base, new, "--force")
    assert forced.stdout.startswith("FORCED: ") and "new is marked suspect" in forced.stdout.splitlines()[0]
    assert call("gate", base, new, "--strict").returncode == 4
    assert call("gate", base, new, "--force").returncode == 1


def test_a_suspect_stored_run_is_left_out(tmp_path):
    folder = baseline(tmp_path / "base", runs=4)
    environment = json.loads((folder / "2" / "environment.json").read_text())
    (folder / "2" / "environment.json").write_text(json.dumps(environment | {"suspect": True}))
    done = call("gate", folder, new_run(tmp_path / "new"))
    told = "marked suspect: marked so in its environment (run 2)"
    assert done.returncode == 0 and f"left out of the baseline: {told}" in done.stdout and "10 same" in done.stdout
    (folder / "4" / "records.jsonl").unlink()  # with two others only, it is used and told
    done = call("gate", folder, tmp_path / "new")
    assert "base (3 runs)" in done.stdout and f"note: {told}" in done.stdout


def test_a_run_whose_own_sentinels_drifted_is_suspect(base, tmp_path):
    new = new_run(tmp_path / "new", change=slower(1.5))
    rows = [{"when": when, "start_s": start_s, "gemm_flops_per_s": rate, "gemm_dtype": "bf16"}
            for when, start_s, rate in (("start", 0.0, 7e14), ("end", 60.0, 6.7e14))]  # fmt: skip
    (new / "sentinels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("gate", base, new)
    assert done.returncode == 0 and "10 inconclusive" in done.stdout
    assert "its own GEMM rate moved by 4.4%" in done.stdout


def test_a_cpu_whose_sentinels_drift_still_gets_verdicts(tmp_path):
    """On a shared CPU they always do; what a whole run is off by is in the spread of the stored ones."""
    laptop = {**LAPTOP, "device": "cpu", "machine": "fedcba9876543210"}
    folder = baseline(tmp_path / "base", environment=laptop)
    new = new_run(tmp_path / "new", laptop, change=slower(1.5))
    rows = [{"when": "start", "gemm_flops_per_s": 1e11}, {"when": "end", "gemm_flops_per_s": 7e10}]
    for run in (folder / "2", new):
        (run / "sentinels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("gate", folder, new)
    assert done.returncode == 1 and "slower" in done.stdout
    assert done.stdout.count("marked suspect: its own GEMM rate moved by 35.3%") == 2
    assert "left out" not in done.stdout and "base (3 runs)" in done.stdout


@pytest.mark.parametrize("runs", [1, 2])
def test_fewer_than_three_stored_runs_are_incomplete(runs, tmp_path):
    folder = baseline(tmp_path / "base", runs=runs)
    new = new_run(tmp_path / "new", change=slower(1.3))
    done = call("gate", folder, new, "--github")
    assert done.returncode == 3
    stored = f"{runs} stored run{'s' if runs > 1 else ''}"
    assert f"measured in {stored}; it takes 3" in done.stdout
    assert re.search(r"\+(29|30)\.\d\d % +inconclusive", done.stdout)  # seen all the same
    said = f"too few stored runs: 10 cases of {stored}, and a verdict takes 3 runs of each; "
    said += "the missing ones are made by"
    command = f"`attnbench run {folder / '1' / 'suite.yaml'} --device cuda:0 --out {folder / str(runs + 1)}`"
    again = f", and again with --out {folder / '3'}" if runs == 1 else ""
    assert f"{said} {command}{again}\n" in done.stdout
    assert f"::error title=attnbench gate::{said}" in done.stdout
    assert call("gate", folder, new, "--strict").returncode == call("compare", folder, new).returncode == 3


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_far_slower_is_slower_whatever_the_number_of_runs(runs, tmp_path):
    folder = baseline(tmp_path / "base", runs=runs, own=0.2)  # three such runs tell nothing below a factor of two
    done = call("gate", folder, new_run(tmp_path / "new", change=slower(10.0)))
    assert done.returncode == 1 and "1 slower" in done.stdout
    said = re.search(r"its fast calls take \S+ times what the baseline's slow ones do", " ".join(done.stdout.split()))
    assert said or runs == 3  # where statistics have their say as well
    done = call("gate", folder, new_run(tmp_path / "half", change=slower(1.3)))
    assert done.returncode == (0 if runs == 3 else 3) and "10 inconclusive, of 10 cases" in done.stdout


def test_far_slower_is_held_against_what_the_machine_itself_moved(tmp_path):
    """Three times 2 / 1 - 1: only beyond 4 times the slow calls."""
    folder = baseline(tmp_path / "base", runs=2)
    rows = [{"when": "start", "gemm_flops_per_s": rate} for rate in (1e11, 2e11)]
    for factor, status in ((3.9, 3), (4.5, 1)):
        new = new_run(tmp_path / str(factor), change=slower(factor))
        (new / "sentinels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert call("gate", folder, new).returncode == status


def test_far_slower_at_a_lower_clock_is_not_the_code(tmp_path):
    """Twice the time at half the clock."""

    def at(mhz, time_s):
        return [record("mine", time_s, blocks=[Block((time_s,) * 3, 3, conditions=Conditions(3, sm_clock_mhz=mhz))])]

    base = write_run(tmp_path / "base" / "1", at(1800, 1e-3)).parent
    assert call("gate", base, write_run(tmp_path / "clock", at(900, 2e-3))).returncode == 3
    assert call("gate", base, write_run(tmp_path / "code", at(1800, 2e-3))).returncode == 1


def test_copies_and_links_of_one_run_count_once(tmp_path):
    folder = baseline(tmp_path / "base", runs=1)
    shutil.copytree(folder / "1", folder / "2")
    (folder / "3").symlink_to(folder / "1")
    done = call("gate", folder, new_run(tmp_path / "new", change=slower(1.05)))
    assert done.returncode == 3 and "base (1 run)" in done.stdout
    assert "left out of the baseline: 2 is a copy of 1\n" in done.stdout
    assert "left out of the baseline: 3 is a copy of 1\n" in done.stdout
    assert f"--out {folder / '4'}, and again" not in done.stdout and f"--out {folder / '4'}`" in done.stdout
    grown = folder / "2" / "records.jsonl"  # what was measured since makes it no other run
    grown.write_text(grown.read_text() + record("naive", 1.0, seqlen=128).to_json() + "\n")
    assert "left out of the baseline: 1 is a copy of 2\n" in call("gate", folder, tmp_path / "new").stdout


def test_new_inside_base_is_refused_however_it_got_there(tmp_path):
    folder = baseline(tmp_path / "base")
    new = new_run(tmp_path / "new", change=slower(1.1))
    for make in (shutil.copytree, lambda target, link: link.symlink_to(target)):
        make(new, folder / "4")
        done = call("gate", folder, new)
        assert done.returncode == 2 and "a run is not compared with itself" in done.stderr
        shutil.rmtree(folder / "4") if not (folder / "4").is_symlink() else (folder / "4").unlink()
    moved = folder / "4"
    shutil.copytree(new, moved)  # under another name, from another time, on its way to being another run
    (moved / "environment.json").write_text(json.dumps({**MACHINE, "collected_utc": "2026-01-01T00:00:00Z"}))
    lines = (moved / "records.jsonl").read_text().splitlines(keepends=True)
    (moved / "records.jsonl").write_text("".join(lines[3:]))
    done = call("gate", folder, new)
    assert done.returncode == 2 and f"{moved} (in BASE) holds measurements of {new} (in NEW)" in done.stderr
    assert call("gate", folder / "1", new).returncode == 3


def judged(*rules, coverage="full"):
    """A record that was judged by these (rule, value, limit)."""
    checks = tuple(Check(rule, value, limit, value <= limit) for rule, value, limit in rules)
    return replace(record("mine", 1e-3), accuracy=Accuracy(coverage, 64, checks, {}, "last buffers"))


RULES = (("max error", 1e-3, 8e-3), ("LSE error", 1e-6, 1e-3), ("repeats that differ bitwise", 0, 0))
JUDGED = {
    "the same": (RULES, {}, 0, "1 same"),
    "nearly the same limit": ((("max error", 1e-3, 9e-3), *RULES[1:]), {}, 0, "1 same"),
    "LSE's limit is that of a row": ((RULES[0], ("LSE error", 1e-6, 0.1), RULES[2]), {}, 0, "1 same"),
    "further rules": ((*RULES, ("mine", 0, 1)), {}, 0, "1 same"),
    "looser": ((("max error", 1e-3, 12e-3), *RULES[1:]), {}, 3,
               "looser checks: held to looser limits: max error 0.012 (0.008 in the baseline)"),
    "looser, and used": ((("max error", 1e8, 1e9), *RULES[1:]), {}, 1,
                         "max error 1e+08 passes a limit of 1e+09, and the baseline was held to 0.008"),
    "replaced": ((("mine", 0, 1),), {}, 3,
                 "looser checks: not judged by max error, LSE error, repeats that differ bitwise, as the baseline was"),
    "one left out": (RULES[:2], {}, 3, "not judged by repeats that differ bitwise"),
    "sampled": (RULES, {"coverage": "sampled"}, 3, "64 query rows were judged, and all of them in the baseline"),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_which_rules_judged_new_and_at_which_limits(name, tmp_path):
    rules, more, status, said = JUDGED[name]
    for run in "123":
        write_run(tmp_path / "base" / run, [judged(*RULES)])
    done = call("gate", tmp_path / "base", write_run(tmp_path / "new", [judged(*rules, **more)]))
    assert done.returncode == status and said in " ".join(done.stdout.split()), done.stdout


def test_a_file_that_cannot_be_written_hides_nothing(base, tmp_path):
    """What was found keeps its status, and annotations are printed before anything can fail."""
    slow, same = new_run(tmp_path / "slow", change=slower(1.05)), new_run(tmp_path / "same")
    missing = new_run(tmp_path / "missing", records=changed(r3=None))
    blocked = ["--junit", tmp_path / "slow" / "records.jsonl" / "x.xml", "--github"]
    for env, words in (({"GITHUB_STEP_SUMMARY": ""}, 1), ({"GITHUB_STEP_SUMMARY": str(tmp_path)}, 2)):
        for new, status in ((slow, 1), (missing, 3), (same, 2)):
            done = call("gate", base, new, *blocked, env=env)
            assert done.returncode == status and done.stderr.count("cannot write") == words
            assert ("::error title=" in done.stdout) == (new is not same)
            assert f"exit status {status}: " in done.stdout


def test_one_over_three_over_four(tmp_path):
    folder = baseline(tmp_path / "base", runs=1)
    records = changed(r3=None)
    assert call("gate", folder, new_run(tmp_path / "three", records=records), "--strict").returncode == 3
    records[0] = incorrect("naive", seqlen=512)
    assert call("gate", folder, new_run(tmp_path / "one", records=records), "--strict").returncode == 1


def test_a_baseline_with_an_incorrect_record(tmp_path):
    folder = baseline(tmp_path / "base", runs=3)
    records = suite(numpy.random.default_rng(4))
    records[3] = incorrect("naive", seqlen=4096)
    write_run(folder / "4", records, MACHINE)
    done = call("gate", folder, new_run(tmp_path / "new"))
    assert done.returncode == 0 and "10 same" in done.stdout
    assert "note: incorrect in 1 of 4 runs of the baseline, right now" in done.stdout


def test_incorrect_before_and_now_is_no_pass(tmp_path):
    records = changed(r3=incorrect("naive", seqlen=4096))
    for name in "123":
        write_run(tmp_path / "base" / name, records, MACHINE)
    done = call("gate", tmp_path / "base", new_run(tmp_path / "wrong", records=records))
    assert done.returncode == 3 and "incorrect as before, so nothing was compared" in done.stdout
    done = call("gate", tmp_path / "base", new_run(tmp_path / "right"), "--strict")
    assert done.returncode == 4 and "incorrect in the baseline, so it was not timed there" in done.stdout


def test_what_always_failed_is_told_apart_and_how_to_leave_it_out(tmp_path):
    """No regression, but the gate is incomplete: a case that never fits into memory belongs into `exclude`."""
    too_large = changed(r3=failed("naive", "oom", "CUDA out of memory\ntail", seqlen=4096))
    for name in "123":
        write_run(tmp_path / "base" / name, too_large, MACHINE)
    new, junit = new_run(tmp_path / "new", records=too_large), tmp_path / "gate.xml"
    done = call("gate", tmp_path / "base", new, "--junit", junit)
    assert done.returncode == 3 and "1 fails as before, 9 same, of 10 cases" in done.stdout
    assert "fails as before  oom in every run of the baseline and now: CUDA out of memory" in done.stdout
    assert "`exclude` in the suite leaves such a case out" in " ".join(done.stdout.split())
    assert ElementTree.parse(junit).getroot().get("errors") == "1"
    crashed = changed(r3=failed("naive", "crash", "killed by SIGSEGV", seqlen=4096))
    done = call("gate", tmp_path / "base", new_run(tmp_path / "crashed", records=crashed))
    assert done.returncode == 3 and "crash as before: killed by SIGSEGV" in done.stdout
    write_run(tmp_path / "base" / "4", changed(), MACHINE)  # it went well once
    done = call("gate", tmp_path / "base", new)
    assert done.returncode == 3 and "fails as before" not in done.stdout and "oom as before" in done.stdout


def test_a_suite_of_which_all_fails_as_before_is_no_pass(tmp_path):
    records = [failed("naive", "oom", "CUDA out of memory", seqlen=seqlen) for seqlen in SEQLENS]
    for name in "123":
        write_run(tmp_path / "base" / name, records, MACHINE)
    done = call("gate", tmp_path / "base", new_run(tmp_path / "new", records=records))
    assert done.returncode == 3 and "nothing was compared" in done.stdout


def test_nothing_in_common_is_no_pass(base, tmp_path):
    new = new_run(tmp_path / "new", records=[record("naive", 1.0, seqlen=128)])
    for verb, status in (("gate", 3), ("compare", 3)):
        done = call(verb, base, new)
        assert done.returncode == status and "nothing was compared" in done.stdout
        assert "10 missing, 1 new" in done.stdout


def test_checks_alone_are_compared(tmp_path):
    records = [ok("naive", None, seqlen=seqlen) for seqlen in SEQLENS]
    base, new = write_run(tmp_path / "base", records, MACHINE), write_run(tmp_path / "new", records, MACHINE)
    done = call("gate", base, new, "--strict")
    assert done.returncode == 0 and "5 checked only, of 5 cases" in done.stdout


def test_unreadable_lines_are_named_and_the_rest_is_used(base, tmp_path):
    new = new_run(tmp_path / "new")
    lines = (new / "records.jsonl").read_text().splitlines(keepends=True)
    (new / "records.jsonl").write_text(lines[0] + '{"schema":1\n' + "".join(lines[1:]) + lines[0][:50])
    for verb in ("gate", "compare"):
        done = call(verb, base, new)
        assert done.returncode == 3 and "10 same" in done.stdout
        assert f"unreadable: {new}/records.jsonl:2: not JSON" in done.stdout
        assert f"unreadable: {new}/records.jsonl:12: truncated line" in done.stdout
        assert "2 lines are unreadable" in done.stdout


def test_a_clock_that_went_backwards_is_an_unreadable_record(base, tmp_path):
    new = new_run(tmp_path / "new")
    text = (new / "records.jsonl").read_text()
    (new / "records.jsonl").write_text(text.replace('"duration_s":0.0', '"duration_s":-1.0', 1))
    done = call("gate", base, new)
    assert done.returncode == 3 and "1 missing, 9 same" in done.stdout
    assert f"unreadable: {new}/records.jsonl:1: a block that lasted -1 s; a clock went backwards" in done.stdout


def test_mistakes_are_one_line(base, tmp_path):
    new = new_run(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    schema = new_run(tmp_path / "schema")
    (schema / "records.jsonl").write_text((schema / "records.jsonl").read_text().replace('"schema":1', '"schema":7'))
    mixed = baseline(tmp_path / "mixed", runs=2)
    new_run(mixed / "another", {**MACHINE, "machine": "ffff"})
    mistakes = {
        ("gate", base, tmp_path / "nowhere"): "nowhere: no such run directory",
        ("gate", tmp_path / "empty", new): "empty: not a run directory (it has no records.jsonl), and it holds none",
        ("gate", base, tmp_path / "empty"): "empty: not a run directory",
        ("gate", base, schema): "schema 7; this version reads schema 1; read it with the version of attnbench",
        ("gate", base, base / "2"): "2 is in BASE",
        ("gate", new, new): "a run is not compared with itself",
        ("compare", base, mixed): "its runs 1 and another are not comparable: machine: 0123456789abcdef before",
        ("gate", base, new, "--margin", "1"): '"1" is no margin; write a percentage between 0% and 100%, such as 1%',
        ("gate", base, new, "--margin", "-1%"): '"-1%" is no margin',
        ("gate", base, new, "--margin", "nan%"): '"nan%" is no margin',
        ("gate", base): "alone is held against nothing; name BASE too, or a floor: --at-least",
    }
    for arguments, message in mistakes.items():
        done = call(*arguments)
        status = 3 if schema in arguments else 2  # what a run holds is no mistake in the command
        assert done.returncode == status, (arguments, done.stdout)
        assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_baselines_by_machine(tmp_path):
    folder = baseline(tmp_path / "baselines" / MACHINE["machine"]).parent
    baseline(folder / "ffff", environment={**MACHINE, "machine": "ffff"})
    new = new_run(tmp_path / "new", change=slower(1.05))
    assert call("gate", folder, new).stdout == call("gate", folder / MACHINE["machine"], new).stdout
    other = new_run(tmp_path / "other", {**MACHINE, "machine": "abcd"})
    done = call("gate", folder, other)
    said = "has no runs of this machine (abcd), only of 0123456789abcdef, ffff"
    assert done.returncode == 3 and said in done.stdout
    path = tmp_path / "gate.xml"
    done = call("gate", folder, other, "--junit", path, "--github", env={"GITHUB_STEP_SUMMARY": ""})
    assert done.returncode == 3 and "::error title=attnbench gate::not comparable: " in done.stdout
    root = ElementTree.parse(path).getroot()
    assert root.get("errors") == "1" and said in path.read_text()
    done = call("compare", folder, other)
    assert done.returncode == 3 and said in done.stdout
    done = call("gate", folder, new_run(tmp_path / "nameless", H200))
    assert done.returncode == 2 and "give BASE as a folder of runs" in done.stderr


def of_cards(folder, names, runs=1, shift=0.001):
    """Baselines by machine: each card has `runs` runs, nearly alike, and the cards lie `shift` apart."""
    for place, name in enumerate(names):
        for run in range(runs):
            dice = numpy.random.default_rng(10 * place + run)
            write_run(folder / f"machine-{name}" / str(run + 1), suite(dice, shift * (place - 1), 0.0005), card(name))
    return folder


def test_cards_of_one_kind_stand_for_each_other_from_three_on(tmp_path):
    """A pool of equal runners: no run of NEW's own card, and how far the cards lie apart is what decides."""
    new = new_run(tmp_path / "new", card("d"))
    slow = new_run(tmp_path / "slow", card("d"), change=slower(1.05))
    told = "note: 0 stored runs of NEW's own card, so it is held against 3 cards of its kind, one run each"
    done = call("gate", of_cards(tmp_path / "three", "abc"), new)
    assert done.returncode == 0 and "10 same, of 10 cases" in done.stdout and told in done.stdout
    done = call("gate", tmp_path / "three", slow)
    assert done.returncode == 1 and "1 slower, 9 same" in done.stdout
    done = call("gate", of_cards(tmp_path / "apart", "abc", shift=0.03), slow)  # cards that lie 3 % apart tell no 5 %
    assert done.returncode == 0 and "10 inconclusive" in done.stdout


def test_hosts_without_a_gpu_are_told_apart_too(tmp_path):
    """Three runs of one virtual machine say nothing of how another of the same type runs."""

    def on(name):
        return {**LAPTOP, "device": "cpu", "machine": "aa", "host": name}

    new = new_run(tmp_path / "new", on("d"))
    done = call("gate", baseline(tmp_path / "one", environment=on("a")), new)
    assert done.returncode == 3 and "host: a before, d now" in done.stdout
    assert "hosts of the same kind stand for each other from 3 of them on; stored runs are of 1" in done.stdout
    for place, name in enumerate("abc"):
        dice = numpy.random.default_rng(place)
        write_run(tmp_path / "three" / name, suite(dice, 0.001 * (place - 1), 0.0005), on(name))
    done = call("gate", tmp_path / "three", new)
    assert done.returncode == 0 and "10 same" in done.stdout
    assert "0 stored runs of NEW's own host, so it is held against 3 hosts of its kind, one run each" in done.stdout


def test_several_runs_of_a_card_count_as_one(tmp_path):
    new = new_run(tmp_path / "new", card("d"), change=slower(1.05))
    done = call("gate", of_cards(tmp_path / "apart", "abc", runs=3, shift=0.03), new)
    assert done.returncode == 0 and "10 inconclusive" in done.stdout
    assert "left out of the baseline: 6 further runs of the same cards" in done.stdout
    done = call("gate", of_cards(tmp_path / "two", "ab", runs=3) / "machine-a", new)
    assert done.returncode == 3 and "10 not comparable" in done.stdout
    assert "cards of the same kind stand for each other from 3 of them on; stored runs are of 1" in done.stdout


def test_a_card_with_runs_of_its_own_is_held_against_these(tmp_path):
    folder, new = of_cards(tmp_path / "base", "abc", runs=3, shift=0.03), new_run(tmp_path / "new", card("b"))
    done = call("gate", folder, new)
    assert done.returncode == 0 and "10 same" in done.stdout and "machine-b (3 runs)" in done.stdout
    flat = tmp_path / "flat"
    for name in "abc":
        for run in "123":
            shutil.copytree(folder / f"machine-{name}" / run, flat / f"{name}{run}")
    done = call("gate", flat, new)
    assert done.returncode == 0 and "10 same" in done.stdout
    assert "left out of the baseline: card: card-a before, card-b now (runs a1, a2, a3)" in done.stdout


@pytest.mark.parametrize("settings", [{"power_limit_w": 500}, {"name": "NVIDIA H100"}, {"ecc": False}])
def test_cards_of_another_kind_or_policy_stand_for_none(settings, tmp_path):
    for name in "abc":
        write_run(tmp_path / "base" / name, suite(numpy.random.default_rng(1)), card(name, ecc=True))
    done = call("gate", tmp_path / "base", new_run(tmp_path / "new", card("d", **{"ecc": True, **settings})))
    assert done.returncode == 3 and "10 not comparable" in done.stdout
    host = {**card("d", ecc=True), "cpu": {"model": "another CPU"}}
    assert call("gate", tmp_path / "base", new_run(tmp_path / "host", host)).returncode == 3


def test_several_runs_on_the_new_side(base, tmp_path):
    for place in range(3):
        records = suite(numpy.random.default_rng(50 + place), change=slower(1.03))
        new_run(tmp_path / "new" / str(place), records=records)
    done = call("gate", base, tmp_path / "new")
    assert done.returncode == 1 and "new (3 runs) against" in done.stdout and "1 slower, 9 same" in done.stdout


def interleaved(folder, head_s, **options):
    """Two runs whose one case took turns; at 1 ms and head_s."""
    base = write_run(folder / "base", [record("mine", 1e-3, **turns("base", 1e-3))], MACHINE)
    head = write_run(folder / "head", [record("mine", head_s, **turns("head", head_s, **options))], MACHINE)
    return base, head


def test_sides_that_took_turns_replicate_processes(tmp_path):
    done = call("gate", *interleaved(tmp_path / "slow", 1.03e-3))
    assert done.returncode == 1 and "1 slower, of 1 case" in done.stdout
    assert "replicated: processes, in which both sides took turns; the baseline was not measured" in done.stdout
    done = call("gate", *interleaved(tmp_path / "same", 1.001e-3))
    assert done.returncode == 0 and "1 same, of 1 case" in done.stdout
    done = call("gate", *interleaved(tmp_path / "two", 1.03e-3, processes=2), "--strict")
    assert done.returncode == 4 and "measured in 2 processes; it takes 3" in done.stdout


def test_turns_are_held_in_cycles_though_a_reading_is_missing():
    base, head = (record("mine", 1e-3, **turns(side, 1e-3, clock_mhz=1755)).measurement for side in ("base", "head"))

    def unread(process, rounds):
        """HEAD without readings in some rounds of a process."""
        return replace(head, blocks=tuple(
            replace(block, conditions=None) if block.process == process and block.round in rounds else block
            for block in head.blocks))  # fmt: skip

    whole, once = pair_of_turns(base, head), pair_of_turns(base, unread(2, {1}))
    assert once.time == whole.time and len(once.cycles.units) == 5 and once.clock_shift == whole.clock_shift == 0
    assert pair_of_turns(base, unread(2, {0, 1, 2})).cycles is None, "too few readings in one process"


def test_the_same_schedule_at_another_time_is_no_pair(tmp_path):
    base, head = interleaved(tmp_path, 1.03e-3, start_s=1e6)
    assert "measured in 1 stored run; it takes 3" in call("compare", base, head).stdout
    later = write_run(tmp_path / "later", [record("mine", 1e-3, **turns("base", 1e-3, start_s=1e6))], MACHINE)
    assert "measured in 1 stored run; it takes 3" in call("compare", base, later).stdout  # the same arm of another run


def test_stored_measurements_made_otherwise_are_left_out_and_told(tmp_path):
    folder = baseline(tmp_path / "base", runs=4)
    records = suite(numpy.random.default_rng(8))
    records[3] = record("naive", 0.01678, {"regime": "burst"}, seqlen=4096)
    (folder / "4" / "records.jsonl").write_text("".join(one.to_json() + "\n" for one in records))
    done = call("gate", folder, new_run(tmp_path / "new"))
    assert done.returncode == 0 and "10 same" in done.stdout
    assert "left out of the baseline: regime: burst before, sustained now (1 measurement)" in done.stdout
    forced = call("gate", folder, tmp_path / "new", "--force")
    assert forced.stdout.startswith("FORCED: not comparable, and compared nevertheless: regime: burst")


def test_what_differs_in_how_a_case_was_timed_is_told(base, tmp_path):
    timing = {"together": ("1", "2"), "order_seed": 3, "flags": ("power_capped",)}
    records = changed(r3=record("naive", 0.01678, timing, seqlen=4096))
    done = call("gate", base, new_run(tmp_path / "new", records=records))
    assert "note: timed alone before, timed in turns with 1 other now (1 case)" in done.stdout
    assert "note: not held by a power cap before, held by a power cap now (1 case)" in done.stdout


def test_slower_at_a_lower_clock_is_no_regression(tmp_path):
    """Stored runs at 1755 MHz, the new one 3 % slower at a clock 3 % lower: the same cycles."""

    def at(mhz, time_s, unread=0):
        """Four blocks, the first few of which have no reading of the clock."""
        seen = Conditions(3, sm_clock_mhz=mhz)
        conditions = [None] * unread + [seen] * (4 - unread)
        blocks = [Block((time_s,) * 3, 3, round=place, conditions=one) for place, one in enumerate(conditions)]
        return [record("mine", time_s, blocks=blocks)]

    for place, factor in enumerate((0.9995, 1.0, 1.0005)):
        write_run(tmp_path / "base" / str(place), at(1755, 1e-3 * factor), MACHINE)
    capped = write_run(tmp_path / "capped", at(1755 / 1.03, 1.03e-3), MACHINE)
    done = call("gate", tmp_path / "base", capped, "--junit", tmp_path / "gate.xml")
    assert done.returncode == 0 and "inconclusive (clock or power)" in done.stdout
    assert (
        "slower in time, but SM clocks differ by -2.91 % and in cycles it is +0.00 %"
        in (tmp_path / "gate.xml").read_text()
    )
    done = call("gate", tmp_path / "base", write_run(tmp_path / "code", at(1755, 1.03e-3), MACHINE))
    assert done.returncode == 1 and "slower (code)" in done.stdout
    once = write_run(tmp_path / "once", at(1755 / 1.03, 1.03e-3, unread=1), MACHINE)  # the others tell as well
    done = call("gate", tmp_path / "base", once)
    assert done.returncode == 0 and "inconclusive (clock or power)" in done.stdout
    blind = write_run(tmp_path / "blind", at(1755 / 1.03, 1.03e-3, unread=4), MACHINE)
    done = call("gate", tmp_path / "base", blind)
    assert done.returncode == 1 and "note: SM clocks recorded before, no SM clocks recorded now (1 case)" in done.stdout


GROWTH = {
    "error": ({"accuracy": 2.3e-3}, "error growth: relative RMSE 2.0e-03 before, 2.3e-03 now (1.15x, limit 1.1x)"),
    "memory": ({"peak": 2**30 + 2**26}, "memory: peak memory 1.00 GiB before, 1.06 GiB now"),
    "registers": ({"kernel": {"registers": 176}}, "kernel: registers: 168 before, 176 now"),
    "spills": ({"kernel": {"spill_store_bytes": 4}}, "kernel: bytes of spill stores: 0 before, 4 now"),
    "shared": ({"kernel": {"shared_bytes": 230000}}, "kernel: bytes of shared memory: 200,000 before, 230,000 now"),
}
WITHIN = {
    "error": {"accuracy": 2.15e-3},
    "memory": {"peak": 2**30 + 2**20},
    "registers": {"kernel": {"registers": 161}},
    "another compiler": {"kernel": {"registers": 255, "compiler": "nvcc 14"}},
}
KERNEL = {"compiler": "nvcc 13.0.88", "registers": 168, "spill_store_bytes": 0, "spill_load_bytes": 0,
          "shared_bytes": 200_000}  # fmt: skip


def weighed(accuracy_rmse=2e-3, peak=2**30, kernel=None):
    """One record with an error, a peak of memory and static figures."""
    made = record("hopper", 1e-3, {"peak_bytes": peak}, kernel={**KERNEL, **(kernel or {})})
    return replace(made, accuracy=accuracy(accuracy_rmse))


def grown(of):
    return weighed(of.get("accuracy", 2e-3), of.get("peak", 2**30), of.get("kernel"))


@pytest.fixture(scope="module")
def weighed_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weighed") / "base"
    for name in "123":
        write_run(folder / name, [weighed()], MACHINE)
    return folder


@pytest.mark.parametrize("name", GROWTH)
def test_what_grew_fails_the_gate(name, weighed_base, tmp_path):
    of, said = GROWTH[name]
    done = call("gate", weighed_base, write_run(tmp_path / "new", [grown(of)], MACHINE))
    assert done.returncode == 1 and said in done.stdout, done.stdout
    assert "1 same (1 grew in error, memory or static figures), of 1 case" in done.stdout  # it is not its time


@pytest.mark.parametrize("name", WITHIN)
def test_what_grew_within_its_unit_passes(name, weighed_base, tmp_path):
    done = call("gate", weighed_base, write_run(tmp_path / "new", [grown(WITHIN[name])], MACHINE))
    assert done.returncode == 0, done.stdout
    assert ("static figures are of another compiler" in done.stdout) == (name == "another compiler")


def test_memory_by_the_process_is_not_held_against_stored_runs(tmp_path):
    """It depends on the gaps that malloc left, and differs from run to run."""

    def held(peak):
        return record("mine", 1e-3, {"peak_bytes": peak, "peak_by": "process"})

    for name in "123":
        write_run(tmp_path / "base" / name, [held(2**30)], MACHINE)
    done = call("gate", tmp_path / "base", write_run(tmp_path / "new", [held(2**31)], MACHINE))
    assert done.returncode == 0 and "peak memory" not in done.stdout, done.stdout


def test_e3_of_an_e4m3_case_may_not_grow(tmp_path):
    def fp8(e3):
        return ok("hopper", 1e-3, accuracy(e3=e3), dtype="e4m3")

    for name in "123":
        write_run(tmp_path / "base" / name, [fp8(0.05)], MACHINE)
    done = call("gate", tmp_path / "base", write_run(tmp_path / "new", [fp8(0.06)], MACHINE))
    assert done.returncode == 1 and "error growth: E3 5.0e-02 before, 6.0e-02 now (1.20x" in done.stdout


def test_junit_holds_every_case(base, tmp_path):
    tail = "\x1b[31mkilled by SIGSEGV\x1b[0m & <tail>\x00"
    crashed = failed("naive", "crash", tail, seqlen=4096)
    records = [
        *changed(r0=None, r2=record("naive", 0.0046, seqlen=2048), r3=crashed),
        record("naive", 1.0, seqlen=128),
    ]
    path = tmp_path / "deep" / "gate.xml"
    assert call("gate", base, new_run(tmp_path / "new", records=records), "--junit", path).returncode == 1
    root = ElementTree.parse(path).getroot()
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "11", "failures": "1", "errors": "2", "skipped": "1"}  # fmt: skip
    assert [one.get("name") for one in root] == ["naive", "hopper[ws]"]
    cases = {case.get("name"): case for case in root[0].iter("testcase")}
    assert cases["bf16-d128-h16-b4-q4096-k4096-full-normal.0"].find("error").get("message") == (
        "error: crash: killed by SIGSEGV & <tail>\\x00"
    )
    failure = cases["bf16-d128-h16-b4-q2048-k2048-full-normal.0"].find("failure")
    assert failure.get("type") == "slower" and re.match(r"slower \+9\.\d\d % \(\+", failure.get("message"))
    assert float(cases["bf16-d128-h16-b4-q2048-k2048-full-normal.0"].get("time")) == pytest.approx(0.0046)
    assert cases["bf16-d128-h16-b4-q512-k512-full-normal.0"].find("error").get("type") == "missing"


def test_junit_fails_where_nothing_was_compared(base, tmp_path):
    path = tmp_path / "gate.xml"
    new = new_run(tmp_path / "new", records=[])
    assert call("gate", base, new, "--junit", path).returncode == 3
    root = ElementTree.parse(path).getroot()
    assert root.get("errors") == "11" and "nothing was compared" in path.read_text()


def test_annotations_are_escaped_counted_and_gravest_first(base, tmp_path):
    records = [*changed(r2=incorrect("naive", seqlen=2048))[2:3], record("a,b:c", 1.0, seqlen=512)]
    summary = tmp_path / "summary.md"
    done = call("gate", base, new_run(tmp_path / "new", records=records), "--github",
                env={"GITHUB_STEP_SUMMARY": str(summary)})  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert lines[0].startswith("::error title=attnbench gate::nothing was compared")
    assert lines[1] == (
        "::error title=incorrect%3A naive%2C bf16-d128-h16-b4-q2048-k2048-full-normal.0::was right, is incorrect: "
        "relative RMSE 0.04, limit 0.003 at batch 0, head 3, row 17"
    )
    assert len(lines) == 10
    assert lines[-1].startswith("::error title=attnbench gate::2 more cases: 1 incorrect, 9 missing")
    text = summary.read_text()
    assert text.startswith("## attnbench gate: a regression, or a case that is wrong\n")
    assert re.search(r"\| bf16-d128-h16-b4-q2048-k2048-full-normal.0 +\| naive ", text) and r"hopper\[ws\]" in text


def test_without_a_place_for_the_summary_it_is_said(base, tmp_path):
    done = call("gate", base, new_run(tmp_path / "new"), "--github", env={"GITHUB_STEP_SUMMARY": ""})
    assert done.returncode == 0 and "GITHUB_STEP_SUMMARY is not set, so no step summary was written" in done.stdout
    done = call("gate", base, tmp_path / "new", "--github", env={"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert done.returncode == 2 and "cannot write the step summary" in done.stderr


def test_long_tables_are_cut_and_the_rest_is_counted(tmp_path):
    def many(dice):
        return [record("naive", 1e-3 * (1 + 0.001 * dice.normal()), seqlen=64 * (1 + index)) for index in range(60)]

    for place in range(3):
        write_run(tmp_path / "base" / str(place), many(numpy.random.default_rng(place)), MACHINE)
    new = write_run(tmp_path / "new", many(numpy.random.default_rng(9)), MACHINE)
    done = call("gate", tmp_path / "base", new)
    assert done.stdout.count("bf16-") == 40 and "20 more cases; --all shows them" in done.stdout
    every = call("gate", tmp_path / "base", new, "--all")
    assert every.stdout.count("bf16-") == 60 and "more cases" not in every.stdout


def test_long_lists_of_what_grew_are_cut_and_counted(tmp_path):
    def many(registers):
        kernel = {**KERNEL, "registers": registers}
        return [record("hopper", 1e-3, kernel=kernel, seqlen=64 * index) for index in range(1, 61)]

    for name in "123":
        write_run(tmp_path / "base" / name, many(168), MACHINE)
    done = call("gate", tmp_path / "base", write_run(tmp_path / "new", many(200), MACHINE))
    assert done.returncode == 1 and "60 same (60 grew in error, memory or static figures)" in done.stdout
    assert done.stdout.count("kernel: registers") == 40 and "20 more lines like these; --all shows them" in done.stdout


def test_cases_without_figures_that_share_a_reason_share_a_row(base, tmp_path):
    new = new_run(tmp_path / "new", records=changed()[5:])
    done = call("compare", base, new)
    assert "q512-k512-full-normal.0 and 4 more" in done.stdout
    assert "missing (5 cases): in the baseline, and not measured" in done.stdout
    assert call("compare", base, new, "--all").stdout.count("missing") >= 6


def test_completion_of_run_directories(base, tmp_path, monkeypatch):
    from attnbench.cli.options import run_directories

    new_run(tmp_path / "results" / "one")
    new_run(tmp_path / "results" / "baselines" / "aa" / "1")
    (tmp_path / "results" / ".hidden").mkdir()
    (tmp_path / "results" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert [item.value for item in run_directories(None, None, "res")] == ["results/"]
    assert [item.value for item in run_directories(None, None, "results/")] == ["results/baselines/", "results/one"]
    assert [item.value for item in run_directories(None, None, f"{tmp_path}/results/o")] == [f"{tmp_path}/results/one"]
    assert run_directories(None, None, "nowhere/") == []
