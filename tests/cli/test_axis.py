"""`attnbench run --axis`, and `--print-suite`: a shape from the command line, and the file that it stands for."""

import pytest
from click.testing import CliRunner

from attnbench.cli.verbs import main

SHAPE = ("--axis", "head_dim=32,64", "--axis", "seqlen=16,33", "--axis", "causal=true")


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def mine(q, k, v, *, causal, softmax_scale): ...\n")
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_the_printed_suite_has_the_cases_that_the_options_have(call, tmp_path):
    planned = call("run", *SHAPE, "--plugin", "mine.py:mine", "--dry-run")
    printed = call("run", *SHAPE, "--plugin", "mine.py:mine", "--print-suite")
    assert (planned.exit_code, printed.exit_code, printed.stderr) == (0, 0, "")
    assert planned.stdout.startswith("axes: 4 cases; backends: all that are available, mine\n")
    assert printed.stdout.startswith("# as axes.yaml: attnbench run axes.yaml --plugin mine.py:mine\nname: axes\n")
    (tmp_path / "axes.yaml").write_text(printed.stdout)
    assert call("run", "axes.yaml", "--plugin", "mine.py:mine", "--dry-run").stdout == planned.stdout


def test_a_suite_is_printed_with_what_the_options_change(call, tmp_path):
    options = ("--axis", "seqlen=256", "--only", "group=dense", "--only", "dtype=bf16", "--backend", "naive")
    printed = call("run", "quick", *options, "--processes", "3", "--print-suite")
    (tmp_path / "again.yaml").write_text(printed.stdout)
    planned = call("run", "again.yaml", "--dry-run").stdout
    assert planned.splitlines()[0] == "quick: 4 cases; backends: naive" and "q256" in planned
    assert "processes: 3" in printed.stdout and "timeout_s" not in printed.stdout


def test_what_is_left_out_is_told_beside_the_suite(call):
    printed = call("run", "quick", "--axis", "seqlen=256", "--print-suite")
    assert printed.stderr == "note: quick: group lengths: 1 combination left out: group dense has it already\n"
    told = call("run", "h100", "--axis", "seqlen=3k", "--dry-run").stderr.splitlines()
    assert len(told) == 6 and told[-1] == "note: 5 more like it; --print-suite shows what is left"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a suite, such as quick, or a file"),
        (("--axis", "heads=4"), '--axis heads=4: unknown field "heads"'),
        (("quick", "edges", "--print-suite"), "--print-suite prints one suite, not 2; name one"),
        (("quick", "--axis", "seqlen=16", "--only", "seqlen=32"), "has seqlen=32; it has seqlen 16"),
    ],
)
def test_mistakes(call, arguments, message):
    done = call("run", *arguments)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_run_that_is_continued_keeps_its_cases(call, tmp_path):
    from fakes.report_runs import ok, write_run

    run = write_run(tmp_path / "run", [ok("naive", 1e-3)], {"device": "cpu"})
    (run / "suite.yaml").write_text("groups: [{name: a, axes: {batch: 1, num_heads: 1, head_dim: 8, seqlen: 8}}]\n")
    done = call("run", "--resume", "run", "--axis", "seqlen=16")
    assert done.exit_code == 2
    assert "--resume run goes on with the cases stored there; leave out --axis seqlen=16" in done.stderr


def test_it_runs(command):
    """The whole way, from a shape to records that can be continued."""
    done = command("run", "--axis", "head_dim=16", "--axis", "seqlen=16", "--axis", "num_heads=1", "--backend", "naive",
                   "--device", "cpu", "--no-time", "--out", "out")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "name: axes\n" in (command.folder / "out" / "suite.yaml").read_text()
    again = command("run", "--resume", "out", "--device", "cpu")
    assert again.returncode == 0 and len((command.folder / "out" / "records.jsonl").read_text().splitlines()) == 1
