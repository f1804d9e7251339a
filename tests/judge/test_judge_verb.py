"""`attnbench judge` in a loop that edits one kernel file, and what it says of candidates that cannot be judged."""

import json
import shlex

import jsonschema
import loop_steps
import pytest
from click.testing import CliRunner

from attnbench.cli.verbs import main
from attnbench.judge.judgement import json_schema
from attnbench.judge.question import Question
from attnbench.judge.runner import judge
from attnbench.records.store import read
from attnbench.run.runner import Silent

TRIES = 3


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """Writes the kernel file anew, and asks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.yaml").write_text(loop_steps.SUITE)

    def ask(text, **options):
        (tmp_path / "kernel.py").write_text(text)
        question = Question("kernel.py:mine", **{"suite": "loop.yaml", "trusted": True, "device": "cpu", **options})
        judged = judge(question, Silent())
        jsonschema.validate(judged.judgement.to_dict(), json_schema())
        return judged

    return ask


def told_in_the_end(ask, verdict):
    """Where other work disturbs the machine it may take more than one question; no answer is the opposite."""
    for _ in range(TRIES):
        judged = ask()
        assert judged.judgement.verdict in (verdict, "correct", "undecided"), judged.judgement.reason
        if judged.judgement.verdict == verdict:
            break
    return judged


def test_a_loop_is_told_the_truth_at_each_step(loop):
    wrong = loop(loop_steps.WRONG_MASK)
    told = wrong.judgement
    assert (told.verdict, wrong.status, told.speedup) == ("incorrect", 1, None)
    (failed,) = told.failed
    assert failed.kind == "incorrect" and failed.value > failed.limit and failed.rule in told.reason
    assert "top left" in failed.cause and failed.case_key in told.reason
    assert told.seconds < 30 and wrong.error_map
    # The command poses the case that failed, and no other.
    words = shlex.split(told.next)
    plan = CliRunner().invoke(main, [*words[1:], "--dry-run"]).stdout.splitlines()
    assert plan[0] == "loop: 1 cases; backends: mine" and failed.case_key in plan[1] and len(plan) == 2
    assert "--plugin kernel.py:mine --backend mine" in told.next and "--seed" in words

    scaled = loop(loop_steps.WRONG_SCALE).judgement
    assert scaled.verdict == "incorrect" and "scale" in scaled.failed[0].cause

    slow = told_in_the_end(lambda: loop(loop_steps.SLOW, against="naive"), "slower")
    assert (slow.judgement.verdict, slow.status) == ("slower", 1), slow.judgement.reason
    assert slow.judgement.speedup.high < 1 and not slow.judgement.failed and slow.judgement.next is None

    fast = told_in_the_end(lambda: loop(loop_steps.FAST, against="naive"), "promoted")
    assert (fast.judgement.verdict, fast.status) == ("promoted", 0), fast.judgement.reason
    assert fast.judgement.speedup.low > 1 and fast.judgement.speedup.against == "naive"
    run = read(fast.judgement.run)
    assert {record.backend for record in run.records} == {"mine", "naive", "naive[again]"}


def test_a_candidate_that_cannot_be_judged_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.yaml").write_text(loop_steps.SUITE)
    (tmp_path / "kernel.py").write_text(loop_steps.NO_IMPORT)
    done = CliRunner().invoke(main, ["judge", "kernel.py:mine", "--suite", "loop.yaml", "--device", "cpu", "--json"])
    told = json.loads(done.stdout)
    jsonschema.validate(told, json_schema())
    assert done.exit_code == 3 and told["verdict"] == "error" and told["run"] is None
    assert "does not import" in told["reason"] and "a_module_that_is_not_there" in told["reason"]
    assert done.stderr.count("\n") == 1 and told["reason"] in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["kernel.py:mine"], "no file kernel.py"),
        ([], "name a candidate"),
        (["right.py:mine", "--against", "cpu_flush"], 'unknown backend "cpu_flush" (did you mean "cpu_flash"?)'),
        (["right.py:mine", "--against", "fa3", "--device", "cpu"], "--against fa3: it cannot run here"),
        (["right.py:mine", "--suite", "qick"], 'did you mean "quick"?'),
        (["right.py:mine", "--out", "."], "is not empty"),
        (["right.py:mine", "--device", "gpu"], 'unknown device "gpu"'),
        (["right.py:mine", "--mcp"], "leave out FILE"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_an_object(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "right.py").write_text(loop_steps.FAST)
    done = CliRunner().invoke(main, ["judge", *options])
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    if options and "--mcp" not in options:
        told = json.loads(CliRunner().invoke(main, ["judge", *options, "--json"]).stdout)
        jsonschema.validate(told, json_schema())
        assert told["verdict"] == "error" and words in told["reason"] and told["run"] is None


@pytest.mark.full
def test_what_it_raises_is_an_error(loop):
    judged = loop(loop_steps.RAISES)
    assert (judged.judgement.verdict, judged.status) == ("error", 3)
    assert judged.judgement.failed[0].kind == "exception" and "no tile for this head_dim" in judged.judgement.reason


@pytest.mark.full
def test_what_is_wrong_only_while_it_is_timed_is_incorrect(loop):
    told = loop(loop_steps.KEPT, against="naive").judgement
    assert told.verdict == "incorrect" and "while it was timed" in told.reason and told.speedup is None
    assert "--no-time" not in told.next and "--only group=timed" in told.next


@pytest.mark.full
def test_the_kernel_promoted_last_is_the_next_incumbent(loop, tmp_path):
    (tmp_path / "best.py").write_text(loop_steps.FAST.replace("def mine", "def best"))
    judged = told_in_the_end(lambda: loop(loop_steps.SLOW, against="best", plugins=("best.py:best",)), "slower")
    assert judged.status == 1 and judged.judgement.speedup.against == "best", judged.judgement.reason
    judged = loop(loop_steps.SLOW, against="bets", plugins=("best.py:best",))
    assert judged.status == 2 and 'did you mean "best"?' in judged.judgement.reason


def test_the_schema_is_printed():
    assert json.loads(CliRunner().invoke(main, ["schema", "--judge"]).stdout) == json_schema()
