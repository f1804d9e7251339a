"""Our kernels without a Hopper GPU: which join a run, in what order, and what is said without time or a compiler."""

import pytest

from attnbench.case import forward_flops
from attnbench.records.store import read
from attnbench.run.emulated import DEFAULTS, emulated_names, emulated_twins, in_order, joining
from attnbench.run.process import RunError
from attnbench.suite.load import load_suite, parse_suite, with_overrides

SIZES = "batch: 1, num_heads: 1, head_dim: 64, dtype: bf16"
THREE = f"name: x\ngroups: [{{name: a, axes: {{{SIZES}, causal: true, seqlen: [96, 40, 64]}}}}]\n"
ABLE = dict.fromkeys(DEFAULTS)
NO_COMPILER = "no C++ compiler: g++ is not on PATH (install g++, or set CXX)"


def test_a_suites_kernels_have_emulated_twins():
    assert emulated_twins(("hopper", "cudnn", "hopper[ws]", "hopper_fp8[two_level]", "hopper"), "x") == (
        "hopper_emulated", "hopper_emulated[ws]", "hopper_fp8_emulated[two_level]",
    )  # fmt: skip
    assert emulated_twins(None, "x") == DEFAULTS
    assert emulated_twins(("hopper_emulated[ws]",), "x") == ("hopper_emulated[ws]",)
    assert set(DEFAULTS) <= set(emulated_names())
    with pytest.raises(RunError) as caught:
        emulated_twins(("naive", "fa2"), "peers")
    assert str(caught.value) == (
        '--emulated: suite "peers" lists none of our kernels (naive, fa2); name one of them: --backend hopper_emulated'
    )


def test_defaults_join_where_the_suite_says_so_on_a_cpu():
    plain, emulated = parse_suite(THREE, "x"), parse_suite("emulated: true\n" + THREE, "x")
    assert joining(emulated, "cpu", ABLE) == (DEFAULTS, None)
    assert joining(plain, "cpu", ABLE) == joining(emulated, "cuda:0", ABLE) == ((), None)
    assert joining(with_overrides(emulated, backends=("naive",)), "cpu", ABLE) == ((), None)
    without = joining(emulated, "cpu", dict.fromkeys(DEFAULTS, NO_COMPILER))
    assert without == ((), f"our kernels do not run here in the emulation: {NO_COMPILER}")
    assert load_suite("quick").emulated and not load_suite("h100").emulated


def test_only_emulated_backends_take_the_smallest_case_first():
    jobs = parse_suite(THREE, "x").jobs()
    assert [job.case.seqlen_k for job in in_order(jobs, ("hopper_emulated",))] == [40, 64, 96]
    assert in_order(jobs, ("hopper_emulated", "naive")) == in_order(jobs, ()) == jobs
    assert forward_flops(jobs[1].case) < forward_flops(jobs[0].case)


def test_how_kernels_are_launched_is_stored_with_the_run_where_it_is_not_the_default():
    suite = parse_suite("emulated: true\nemulation: {delivery: [lazy, 'random:3'], checks: fast}\n" + THREE, "x")
    assert suite.emulation.delivery == ("lazy", "random:3") and suite.emulation.checks == "fast"
    assert parse_suite(suite.to_yaml(), "y").emulation == suite.emulation and parse_suite(suite.to_yaml(), "y").emulated
    assert "emulat" not in parse_suite(THREE, "x").to_yaml()
    changed = with_overrides(suite, emulation={"checks": "full"})
    assert changed.emulation.checks == "full" and changed.emulation.delivery == ("lazy", "random:3")
    assert {job.emulation for job in changed.jobs()} == {changed.emulation}


def test_a_suite_for_gpus_runs_our_kernels_in_the_emulation(command):
    path = command.suite(f"{SIZES}, seqlen: [96, 40]", name="gpus", rest="backends: [hopper, 'hopper[simple]', fa2]\n")
    done = command("run", path, "--device", "cpu", "--emulated", "--emulation", "eager,random:4", "--out", "run",
                   "--emulation-checks", "fast", "--only", "seqlen=40", "--backend", "hopper[simple]")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = read(command.folder / "run").records
    assert record.backend == "hopper_emulated[simple]" and record.status == "ok" and record.measurement is None
    assert record.kernel["emulated"] == {"mode": "emulation", "delivery": "eager,random:4", "checks": "fast",
                                         "seed": record.kernel["emulated"]["seed"]}  # fmt: skip
    assert record.kernel["counted"]["tensor_flops"] >= record.kernel["counted"]["useful_flops"] > 0
    assert not (command.folder / "run" / "sentinels.jsonl").exists()


def test_what_a_budget_leaves_no_time_for_is_listed(command):
    path = command.suite(f"{SIZES}, seqlen: [96, 40]", name="gpus", rest="backends: ['hopper[simple]', fa2]\n")
    done = command("run", path, "--device", "cpu", "--emulated", "--budget", "0.001s", "--out", "run")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert "incomplete: the budget was used up with 2 of 2 cases left" in lines
    left = [line for line in lines if line.startswith("not run: ")]
    assert left == [
        "not run: bf16-d64-h1-b1-q40-k40-full-normal.0",
        "not run: bf16-d64-h1-b1-q96-k96-full-normal.0",
    ]


def test_emulated_backends_come_after_those_that_are_timed(command):
    """What they compile may take minutes: something is shown before that."""
    path = command.suite(f"{SIZES}, seqlen: 40", rest="backends: ['hopper_emulated[simple]', naive, cpu_flash]\n")
    done = command("run", path, "--device", "cpu", "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    records = read(command.folder / "run").records
    assert {record.backend for record in records[:2]} == {"naive", "cpu_flash"}
    assert all(record.measurement for record in records[:2])
    assert records[2].backend == "hopper_emulated[simple]" and records[2].measurement is None
