"""`attnbench run --generate`: from the command line to cases, and a planted bug found and made small."""

import json

import pytest
from click.testing import CliRunner
from fakes.report_runs import ok, write_run

from attnbench.cli.verbs import main
from attnbench.records.store import read

# Keys beyond the last full tile of 64 are not seen, as by a kernel whose loop over tiles rounds down.
TAIL = """
import torch


def tail(q, k, v, *, causal, softmax_scale, mask_alignment="bottom_right"):
    dtype, diagonal = q.dtype, (k.shape[1] - q.shape[1]) * (mask_alignment == "bottom_right")
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * softmax_scale
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if causal:
        seen = seen.tril(diagonal)
    if k.shape[2] > 64:
        seen[:, k.shape[2] // 64 * 64 :] = False
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    return (weights @ v).transpose(1, 2).contiguous().to(dtype)
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tail.py").write_text(TAIL)
    return lambda *arguments: CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_the_cases_are_shown_and_printed(call, tmp_path):
    planned = call("--generate", 5, "--seed", 7, "--dry-run")
    assert planned.exit_code == 0 and not planned.stderr
    lines = planned.stdout.splitlines()
    assert lines[0] == "generated: 5 cases; backends: all that are available" and len(lines) == 6
    assert all(line.startswith("generated  ") and line.endswith("(not timed)") for line in lines[1:])
    printed = call("--generate", 5, "--seed", 7, "--print-suite").stdout
    (tmp_path / "again.yaml").write_text(printed)
    assert call("again.yaml", "--dry-run").stdout == planned.stdout
    beside = call("quick", "--generate", 5, "--seed", 7, "--dry-run").stdout.splitlines()
    assert [line for line in beside if line.startswith("generated ")] == lines[1:] and len(beside) > 20


def test_a_seed_that_was_drawn_is_told(call):
    drawn = call("--generate", 3, "--dry-run")
    seed = drawn.stderr.split("--seed ")[1].split()[0]
    assert call("--generate", 3, "--seed", seed, "--dry-run").stdout == drawn.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--generate", 0), "0 is not in the range"),
        (("--generate", 10**6), "at most 10,000 cases"),
        (("--generate", 5, "--seed", -1), "-1 is not in the range"),
        (("--generate", 5, "--seed", "x"), "'x' is not a valid integer"),
        (("--generate", 5, "--only", "head_dim=333"), "no case that can be drawn"),
    ],
)
def test_mistakes_are_one_line(call, arguments, words):
    done = call(*arguments, "--dry-run")
    assert done.exit_code == 2 and words in done.stderr.replace('"', "'") and done.stderr.count("\n") == 1


def test_a_run_that_is_continued_keeps_its_cases(call, tmp_path):
    write_run(tmp_path / "run", [ok("naive", 1e-3)], {"device": "cpu"})
    done = call("--resume", "run", "--generate", 5)
    assert done.exit_code == 2 and "goes on with the cases stored there; leave out --generate 5" in done.stderr


def test_a_planted_tail_is_found_and_made_small(command):
    (command.folder / "tail.py").write_text(TAIL)
    done = command("run", "--generate", 6, "--seed", 3, "--only", "dtype=fp32", "--only", "causal=false",
                   "--plugin", "tail.py:tail", "--backend", "tail", "--device", "cpu", "--out", "out")  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    told = done.stdout[done.stdout.index("smallest failing case of tail") :]
    key = told.split()[5]
    assert key == "fp32-d16-h1-b1-q1-k65-full-normal.0", told
    again = told.split("again: attnbench ")[1].splitlines()[0].split()
    plan = command(*again, "--dry-run").stdout.splitlines()
    assert plan[0] == "axes: 1 cases; backends: tail" and plan[1].split()[1] == key
    run = read(command.folder / "out")
    assert run.suite_name == "generated" and key in {record.case_key for record in run.records}
    assert json.loads((command.folder / "out" / "environment.json").read_text())["seed"] == 3


@pytest.mark.full
def test_no_right_kernel_is_accused(command):
    """200 cases of both CPU backends."""
    done = command("run", "--generate", 200, "--seed", 2026, "--backend", "naive", "--backend", "cpu_flash",
                   "--device", "cpu", "--out", "out", timeout_s=1800)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [record.status for record in read(command.folder / "out").records]
    assert len(statuses) == 400 and set(statuses) == {"ok", "unsupported"} and statuses.count("ok") > 300
