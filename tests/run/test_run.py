"""Runs end to end through a real worker: misbehaving kernels, interruption, the death of the parent, resuming."""

import contextlib
import json
import re
import signal
import time
from pathlib import Path

import pytest
from fakes.processes import children, is_alive
from paths import ROOT

from attnbench.messages import Ready
from attnbench.records.store import read
from attnbench.run.runner import STATUS_MEANS, Outcome, none_can_run

BAD = ROOT / "tests" / "plugins_bad"
ONE_CASE = (
    "seqlen_q: 20, seqlen_k: 24, batch: 1, num_heads: 2, num_heads_kv: 1, head_dim: 16, causal: true, dtype: fp16"
)


@pytest.fixture(scope="module")
def misbehaved(module_command):
    """One run of one case on every misbehaving kernel, and what it printed."""
    suite = module_command.suite(ONE_CASE, name="bad", rest="backends: [naive]\n")
    out = module_command.folder / "bad"
    plugin = BAD / "misbehaving.py"
    done = module_command("run", suite, "--device", "cpu", "--out", out, "--plugin", plugin, "--timeout", 8)
    return done, {record.backend: record for record in read(out).records}, read(out)


EXPECTED = {
    "naive": ("ok", None, r"^$"),
    "raises": ("error", "exception", r"^ArithmeticError: the sum of all fears \(misbehaving.py:\d+ raises < "),
    "exits_politely": ("error", "exception", r"^SystemExit: 3 \("),
    "raises_what_ctrl_c_would": ("error", "exception", r"^KeyboardInterrupt \(misbehaving.py:\d+ raises_what_"),
    "raises_what_a_dead_parent_would": ("error", "exception", r"^BrokenPipeError: of a pipe of my own \("),
    "exits_at_once": ("error", "crash", r"^in phase check: .*exited with status 7; its last output: about to leave$"),
    "segfaults": ("error", "crash", r"killed by SIGSEGV; its last output: Fatal Python error: Segmentation fault"),
    "hangs": (
        "error",
        "timeout",
        r"^in phase check: a call did not return within 8 s; it was ended \(timeout_s, --timeout\); it was at "
        r"misbehaving.py:\d+ hangs < .*",
    ),
    "is_killed_from_outside": ("error", "crash", r"killed by SIGKILL"),
    "wants_a_petabyte": ("error", "oom", r"can't allocate memory"),
    "recurses": ("error", "exception", r"^RecursionError: "),
    "returns_nothing": ("error", "contract", r"^the call returned NoneType, not attnbench.Outputs$"),
    "returns_a_bare_tensor": ("error", "contract", r"^the call returned Tensor, not attnbench.Outputs$"),
    "returns_a_list_for_out": ("error", "contract", r"^out is list, not a tensor$"),
    "returns_the_wrong_shape": ("error", "contract", r"^out has shape \(1, 2, 20, 16\), not \(1, 20, 2, 16\)$"),
    "returns_the_wrong_dtype": ("error", "contract", r"^out has dtype torch.float32, not torch.float16$"),
    "returns_a_wrong_lse": ("error", "contract", r"^lse has dtype torch.float64, not torch.float32$"),
    "returns_another_shape_the_second_time": ("error", "contract", r"^out has shape \(1, 1, 2, 16\)"),
    "is_on_no_device": ("error", "contract", r"^out is on meta, not on cpu$"),
    "writes_q": ("error", "contract", r"^it wrote its inputs"),
    "swaps_two_rows_of_k": ("error", "contract", r"^it wrote its inputs"),
    "writes_v_later": ("error", "contract", r"it wrote its inputs"),
    "empties_q": ("error", "exception", r"^RuntimeError: and fails"),
    "never_writes_its_output": ("incorrect", None, r"^non-finite outputs 640, limit 0 at batch 0, head 0, row 0"),
    "skips_a_row": ("incorrect", None, r"^non-finite outputs 32, limit 0 at batch 0, head 0, row 19, column 0"),
    "is_wrong_from_the_second_call": ("incorrect", None, r"^repeats that differ bitwise 2, limit 0 at out, batch 0"),
    "is_wrong_after_ten_calls": ("incorrect", None, r"^right when checked, wrong while it was timed: .*relative RMSE"),
    "answers_from_its_first_answer": ("incorrect", None, r"^right when checked, wrong while it was timed: "),
    "answers_by_address": ("incorrect", None, r"^right when checked, wrong while it was timed: "),
    "is_random": ("incorrect", None, r"^repeats that differ bitwise"),
    "closes_the_standard_streams": ("ok", None, r"^$"),
    "closes_every_descriptor": ("error", "crash", r"^in phase check: the worker process exited with status \d+"),
    "leaves_a_session_behind": ("ok", None, r"^$"),
    "prints_a_lot": ("ok", None, r"^$"),
    "prints_what_looks_like_an_event": ("ok", None, r"^$"),
    "fails_while_timed": ("error", "exception", r"^while being timed: ArithmeticError: tired"),
    "dies_while_timed": ("error", "crash", r"^in phase (time|recheck): the worker process exited with status 9"),
    "unsupported_is_true": ("error", "contract", r"^unsupported\(\) returned True; return a reason as text, or None"),
    "unsupported_raises": ("error", "exception", r"^ArithmeticError: no idea"),
    "facts_are_not_plain": ("error", "contract", r"^kernel_facts\(\) returned what JSON cannot hold"),
    "version_raises": ("ok", None, r"^$"),
    "version_exits": ("ok", None, r"^$"),
    "prepare_returns_no_call": ("error", "exception", r"^TypeError: 'Outputs' object is not callable"),
    "unavailable": ("unsupported", None, r"^it needs a machine from the future$"),
    "unavailable_raises": ("error", "exception", r"^ArithmeticError: cannot tell"),
    "unavailable_exits": ("error", "exception", r"^SystemExit: not here"),
    "random_and_says_so": ("ok", None, r"^$"),
    "behaves": ("ok", None, r"^$"),
}


@pytest.mark.parametrize("backend", EXPECTED)
def test_each_habit_costs_its_own_record_and_says_why(backend, misbehaved):
    _, records, _ = misbehaved
    status, kind, reason = EXPECTED[backend]
    record = records[backend]
    assert (record.status, record.kind) == (status, kind), record.reason
    assert re.search(reason, record.reason), record.reason
    assert str(ROOT) not in record.reason, "paths of this machine do not belong in records"
    assert (record.measurement is not None) == (status == "ok")


def test_no_process_is_left_of_what_kernels_started(misbehaved):
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(command.read_bytes())
    assert b"sleep\x0054321\x00" not in found


def test_the_run_goes_on_past_everything_and_says_how_it_went(misbehaved):
    done, records, run = misbehaved
    assert sorted(records) == sorted(EXPECTED) and len(run.records) == len(EXPECTED) and run.problems == ()
    assert done.returncode == 1, "incorrect is graver than incomplete"
    assert "exit status 1: a result is incorrect" in done.stdout
    assert "Traceback" not in done.stderr and "yyyy" not in done.stdout + done.stderr
    assert run.environment["plugins"] == ["misbehaving.py"] and run.environment["device"] == "cpu"
    assert "backends: [naive, raises, exits_politely," in run.suite_text


def test_a_right_record_is_complete(misbehaved):
    record = misbehaved[1]["behaves"]
    assert record.backend_version == "bad 1.0" and misbehaved[1]["version_raises"].backend_version.startswith("unknown")
    assert record.accuracy.coverage == "full" and record.accuracy.rows == 40
    assert record.accuracy.recheck == "a buffer of every batch; fresh inputs"
    measured = record.measurement
    assert (measured.timer, measured.regime, measured.cache, measured.input_sets) == ("cpu", "sustained", "warm", 1)
    assert measured.blocks[0].sample_count >= 1 and measured.warmup_s > 0
    assert measured.peak_bytes > 0 and measured.peak_by == "allocator"


def test_a_run_is_watched_and_bracketed_by_sentinels(misbehaved):
    """Through the worker and its telemetry process, however many workers were lost in between."""
    _, records, run = misbehaved
    roles = [sentinel["role"] for sentinel in run.sentinels]
    assert (roles[0], roles[-1]) == ("start", "end") and set(roles[1:-1]) <= {"periodic"}
    for sentinel in run.sentinels:
        assert sentinel["gemm_flops_per_s"] > 0 and sentinel["copy_bytes_per_s"] > 0 and "error" not in sentinel
    assert run.environment["worker"]["telemetry"]["sensor"] == "proc"
    blocks = [block for record in records.values() if record.measurement for block in record.measurement.blocks]
    assert blocks and all(block.conditions is not None and block.duration_s > 0 for block in blocks)
    assert any(block.conditions.load is not None for block in blocks)


def test_a_run_that_times_nothing_takes_no_sentinel(interrupted):
    assert read(interrupted[0]).sentinels == ()


def test_the_users_number_of_threads_stays(misbehaved):
    """One, by conftest; without it every core that is allowed."""
    threads = misbehaved[2].environment["worker"]["threads"]
    assert (threads["variables"]["OMP_NUM_THREADS"], threads["intra_op"]) == ("1", 1)


def test_who_took_turns_with_whom_is_on_record(misbehaved):
    behaves, naive = (misbehaved[1][name].measurement for name in ("behaves", "naive"))
    assert behaves.together == naive.together and {"naive", "behaves"} <= set(behaves.together)
    assert not {"dies_while_timed", "fails_while_timed"} & set(behaves.together), "timed again without the culprits"
    assert [block.round for block in behaves.blocks] == [block.round for block in naive.blocks]
    assert {block.arm for block in naive.blocks} == {"1"}


def test_an_error_after_the_check_keeps_the_accuracy(misbehaved):
    for backend in ("fails_while_timed", "writes_v_later"):
        assert misbehaved[1][backend].accuracy.passed
    assert misbehaved[1]["raises"].accuracy is None


# What follows interrupts and kills; `slow` takes about a second a case.
SLOW_CASES = "batch: 1, num_heads: 1, head_dim: 16, seqlen: [16, 17, 18, 19, 20, 21], dtype: fp16"
SLOW = ("--plugin", f"{BAD / 'functions.py'}:slow", "--device", "cpu", "--no-time")


def wait_until(condition, timeout_s=120):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


def lines(path):
    return path.read_bytes().splitlines() if path.is_file() else []


@pytest.fixture(scope="module")
def killed(module_command):
    """A run whose parent was killed with SIGKILL after two records: (out, its lines then, all its processes)."""
    suite = module_command.suite(SLOW_CASES, name="slow", rest="backends: [naive]\n")
    out = module_command.folder / "killed"
    process = module_command.start("run", suite, *SLOW, "--out", out)
    try:
        wait_until(lambda: len(lines(out / "records.jsonl")) >= 3)
        (keeper,) = children(process.pid)
        (worker,) = children(keeper)
        (telemetry,) = children(worker)
    finally:
        process.kill()
        process.communicate()
    return out, lines(out / "records.jsonl"), (keeper, worker, telemetry)


def test_no_orphan_stays_behind_a_killed_parent(killed):
    out, taken, helpers = killed
    wait_until(lambda: not any(map(is_alive, helpers)), timeout_s=10)
    assert 3 <= len(taken) < 12 and len(read(out).records) == len(taken)


def test_resume_needs_the_plugin_again(killed, module_command):
    out, taken, _ = killed
    refused = module_command("run", "--resume", out, "--device", "cpu")
    assert refused.returncode == 2
    message = f"--resume {out}: this run used --plugin functions.py:slow; name it again"
    assert refused.stderr.strip() == f"attnbench: {message}"
    assert lines(out / "records.jsonl") == taken


def test_resume_finishes_the_rest_and_repeats_nothing(killed, module_command):
    out, taken, _ = killed
    resumed = module_command("run", "--resume", out, *SLOW)
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    assert f"{len(taken)} of 12 records were taken before" in resumed.stdout
    after = lines(out / "records.jsonl")
    assert after[: len(taken)] == taken
    pairs = [(row["case_key"], row["backend"]) for row in map(json.loads, after)]
    assert len(pairs) == len(set(pairs)) == 12
    assert len(read(out).environment["resumed"]) == 1

    again = module_command("run", "--resume", out, *SLOW)
    assert again.returncode == 0 and "records: " in again.stdout
    assert lines(out / "records.jsonl") == after


@pytest.fixture(scope="module")
def interrupted(module_command):
    """A run that got SIGINT, as from Ctrl-C, after two records."""
    suite = module_command.suite(SLOW_CASES, name="slow", rest="backends: [naive]\n")
    out = module_command.folder / "interrupted"
    process = module_command.start("run", suite, *SLOW, "--out", out)
    wait_until(lambda: len(lines(out / "records.jsonl")) >= 2)
    (keeper,) = children(process.pid)
    (worker,) = children(keeper)
    (telemetry,) = children(worker)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)
    return out, process.returncode, printed, (keeper, worker, telemetry)


def test_an_interruption_keeps_the_records_and_ends_the_worker(interrupted):
    out, status, (printed, errors), helpers = interrupted
    assert status == 130
    assert not any(map(is_alive, helpers))
    assert (
        "exit status 130: interrupted" in printed
        and f"go on with: attnbench run --resume {out} --plugin {SLOW[1]}\n" in printed
    )
    assert "Traceback" not in errors
    run = read(out)
    assert 2 <= len(run.records) < 12 and run.problems == ()
    assert all(record.status == "ok" for record in run.records)


def test_sigterm_ends_a_run_like_ctrl_c(command):
    """As a CI job gets it at its time-out."""
    process = command.start("run", command.suite(SLOW_CASES, rest="backends: [naive]\n"), *SLOW, "--out", "out")
    wait_until(lambda: lines(command.folder / "out" / "records.jsonl"))
    process.terminate()
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "go on with: attnbench run --resume out --plugin " in printed and "exit status 130: interrupted" in printed


def test_an_interruption_before_the_first_worker_is_ready_is_130_too(command):
    suite = command.suite(SLOW_CASES)
    process = command.start("run", suite, "--device", "cpu", "--out", "early")
    workers = wait_until(lambda: children(process.pid))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "attnbench: interrupted"
    assert not (command.folder / "early").exists()
    wait_until(lambda: not any(map(is_alive, workers)), timeout_s=10)


def test_several_processes_put_their_blocks_into_one_record(command):
    suite = command.suite(ONE_CASE, rest="backends: [naive]\n")
    done = command("run", suite, "--device", "cpu", "--processes", 2, "--out", "two")
    assert done.returncode == 0, done.stderr
    (record,) = read(command.folder / "two").records
    assert [block.process for block in record.measurement.blocks] == [0, 1]
    assert record.measurement.blocks[0].start_s < record.measurement.blocks[1].start_s


def test_a_budget_that_is_used_up_is_incomplete(command):
    suite = command.suite(SLOW_CASES, rest="backends: [naive]\n")
    done = command("run", suite, "--device", "cpu", "--budget", "0.001s", "--out", "short")
    assert done.returncode == 3
    assert "incomplete: the budget was used up with 6 of 6 cases left" in done.stdout
    assert read(command.folder / "short").records == ()


def test_statuses_and_their_precedence(misbehaved):
    records = misbehaved[1]
    ok, incorrect, error, unsupported = (records[n] for n in ("naive", "is_random", "raises", "unavailable"))
    path = Path("x")
    assert Outcome(path, [ok]).exit_status == 0
    assert Outcome(path, [ok, unsupported]).exit_status == 0
    assert Outcome(path, [unsupported]).exit_status == 3
    assert Outcome(path, []).exit_status == 3
    assert Outcome(path, [ok, error]).exit_status == 3
    assert Outcome(path, [ok], incomplete=["budget"]).exit_status == 3
    assert Outcome(path, [ok, incorrect]).exit_status == 1
    assert Outcome(path, [ok, error, incorrect], incomplete=["budget"]).exit_status == 1
    assert Outcome(path, [ok, incorrect], interrupted=True).exit_status == 130
    assert set(STATUS_MEANS) == {0, 1, 3, 130}


def test_a_run_whose_backends_cannot_run_here_says_so_in_three_lines(module_command):
    suite = module_command.suite(ONE_CASE, name="gpus", rest="backends: [hopper, fa2]\n")
    out = module_command.folder / "gpus"
    done = module_command("run", suite, "--device", "cpu", "--out", out)
    first, second, third = done.stdout.splitlines()
    assert first.startswith("nothing ran: ") and "hopper" in first and "fa2" in first and "GPU" in first
    assert second.startswith("here run, with --backend NAME: ") and "cpu_flash, fp8_emulated, naive" in second
    assert second.endswith("our kernels, judged in the CPU emulation, with --emulated --budget 10m")
    assert third == f"records: {out} (2 unsupported); exit status 3: {STATUS_MEANS[3]}" and done.returncode == 3
    assert done.stderr == "" and not (out / "sentinels.jsonl").exists()
    assert {record.status for record in read(out).records} == {"unsupported"}


def test_one_backend_that_can_run_makes_it_a_run():
    ready = Ready(facts={}, backends={"a": "no GPU", "b": None, "c": "no GPU"})
    assert none_can_run(ready, ("a", "b")) == ({}, ()) and none_can_run(ready, ()) == ({}, ())
    assert none_can_run(ready, ("a", "c")) == ({"a": "no GPU", "c": "no GPU"}, ("b",))


def test_the_same_seed_gives_the_same_seeds_verdicts_and_figures(module_command):
    suite = module_command.suite("batch: 1, num_heads: 2, seqlen: [33, 40], head_dim: 32", name="seeds")
    runs = []
    for name, options in (("one", ["--seed", "5"]), ("again", ["--seed", "5"]), ("drawn", [])):
        out = module_command.folder / f"seeds-{name}"
        done = module_command("run", suite, "--backend", "naive", "--out", out, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        runs.append(read(out))
    one, again, drawn = runs
    assert one.environment["seed"] == again.environment["seed"] == 5 != drawn.environment["seed"]
    seeds = [[record.seed for record in run.records] for run in runs]
    assert seeds[0] == seeds[1] != seeds[2] and len(set(seeds[0])) == 2 and None not in seeds[2]
    assert [record.accuracy for record in one.records] == [record.accuracy for record in again.records]
    for value in ("-1", "x", str(2**53)):
        assert module_command("run", suite, "--seed", value).returncode == 2
