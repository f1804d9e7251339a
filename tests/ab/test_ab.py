"""Two revisions side by side, with workers that do as they are told: turns, failures, confirmation, exit statuses."""

import dataclasses
import itertools
import re
import shutil
import signal
import time
from xml.etree import ElementTree

import pytest
from fakes.processes import children, is_alive
from fakes.report_runs import ok
from test_worktree import git

from attnbench.ab import revision as revision_module
from attnbench.ab.journal import COMPARISON, JOURNAL
from attnbench.ab.measure import NULL_CASES, Task, null_tasks
from attnbench.cli import ab
from attnbench.cli.ab_progress import pair_outcome
from attnbench.compare.margin import Margin
from attnbench.compare.text import medians_apart
from attnbench.errors import UserError
from attnbench.messages import (
    BackendHeld,
    BlockTaken,
    HoldBackend,
    JobDone,
    PhaseBegun,
    Ready,
    RecordMade,
    ReleaseBackend,
    TakeBlock,
)  # fmt: skip
from attnbench.records.measurement import Block, Measurement
from attnbench.records.record import Accuracy, Check, Record
from attnbench.records.store import read
from attnbench.run.process import WorkerDied, WorkerRefused, WorkerSilent
from attnbench.suite.load import parse_suite

SUITE = """
name: small
groups: [{name: all, axes: {batch: 1, num_heads: 1, head_dim: 16, seqlen: [16, 32], dtype: fp16}}]
timing: {max_time_s: 1, timeout_s: 50}
"""
BLOCKS = 4  # after which an arm has enough


class FakeWorker:
    """A worker in which every call takes what `seconds(arm, backend, process)` says; it does `habits` instead."""

    log, alive, call_s, habits, seconds, backends = [], [], [], {}, None, None
    clock = itertools.count(1)

    def __init__(self, device, specs, place):
        self.place, self.events, self.specs = place, [], specs
        self.alive.append(self)

    def start(self):
        if "refuse" in self.habits:
            raise WorkerRefused(self.habits["refuse"])
        names = self.backends(self.place.folder.name)
        given = tuple(name for name in names if name != "naive")
        return Ready(facts={}, backends=dict.fromkeys(names), unasked=("naive",), given=given)

    def submit(self, job):
        {HoldBackend: self.hold, TakeBlock: self.block, ReleaseBackend: self.release}[type(job)](job)
        self.events.append(JobDone())

    def stacks(self):
        return ""

    def next_event(self, timeout_s):
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def kill(self):
        if self in self.alive:
            self.alive.remove(self)

    def tell(self, record):
        self.events.append(RecordMade(record.to_json()))

    def hold(self, job):
        self.job, self.blocks = job, []
        self.arm, self.backend, self.process = job.arm, job.backend, job.process
        self.checked = Record(job.case, self.backend, "1", "ok", accuracy=accuracy(recheck=""))
        self.events.append(PhaseBegun(self.backend, "start"))
        if not self.does("hold"):
            call_s = self.seconds(self.arm, self.backend, self.process)
            self.events.append(BackendHeld(call_s, tuple(self.habits.get("strays", ()))))
            if not job.time:
                self.tell(self.checked)

    def block(self, job):
        self.log.append((self.arm, self.process, job.round, job.growth))
        self.call_s.append(job.call_s)
        self.events.append(PhaseBegun(self.backend, "time"))
        if self.does("block"):
            return
        second = self.seconds(self.arm, self.backend, self.process)
        self.blocks.append(
            Block((second, second), 2, self.process, job.round, self.arm, start_s=next(self.clock), duration_s=0.5)
        )
        self.events.append(BlockTaken(len(self.blocks) >= BLOCKS, 0.0))

    def release(self, job):
        if not (job.timed and self.blocks):
            self.tell(self.checked)
            return
        measured = Measurement(tuple(self.blocks), "cpu", "sustained", "cold", 1, True, together=job.together,
                               order_seed=job.order_seed)  # fmt: skip
        self.tell(Record(self.checked.case, self.backend, "1", "ok", accuracy=accuracy(), measurement=measured))

    def does(self, what):
        habit = self.habits.get((self.arm, self.backend, self.process, what))
        if habit == "wrong":
            failed = Check("relative RMSE", 1.0, 0.1, False)
            bad = accuracy(recheck="", checks=(failed,))
            self.tell(Record(self.checked.case, self.backend, "1", "incorrect", reason=str(failed), accuracy=bad))
        elif habit is not None:
            self.events.append(habit)
        return habit is not None


def accuracy(recheck="last timed buffers; fresh inputs", checks=None):
    return Accuracy("full", 8, checks or (Check("relative RMSE", 1e-3, 1e-2, True),), recheck=recheck)


def alike(arm, backend, process):
    """Both sides the same, but for 0.3 % that every process has of its own."""
    offset = 0.003 * ((process * 7 + (arm == "head") * 3) % 5 - 2) / 2
    return 1e-3 * (1 + offset)


def slower_by(fraction):
    return lambda arm, backend, process: alike(arm, backend, process) * (1 + fraction * (arm == "head"))


@pytest.fixture
def compared(tmp_path, monkeypatch, capsys):
    """Runs `ab` with fake workers: (exit status, what was printed); raises what it raises."""
    top = tmp_path / "repository"
    top.mkdir()
    git(top, "init", "--quiet", "--initial-branch", "main")
    for text in ("one", "two"):
        (top / "kernel.py").write_text(text)
        (top / "suite.yaml").write_text(SUITE)
        git(top, "add", ".")
        git(top, "commit", "--quiet", "-m", text)
        git(top, "tag", text)
    monkeypatch.chdir(top)
    monkeypatch.setattr(ab.environment, "collect", lambda device: {"machine": "made", "cpu": {"model": "x"}})

    def run(seconds=alike, habits=None, backends_of=lambda side: ["naive", "mine"], **options):
        fields = dict(log=[], alive=[], call_s=[], habits=habits or {}, seconds=staticmethod(seconds))
        fake = type("Fake", (FakeWorker,), {**fields, "backends": staticmethod(backends_of)})
        monkeypatch.setattr(revision_module, "WorkerProcess", fake)
        given = dict(base="one", head="two", backends=(), only=(), plugins=("kernel.py:mine",), build=None, processes=5,
                     margin=Margin(0.01), device="cpu", out=tmp_path / "out", resume=None, timeout=None, strict=False,
                     junit=None, github=False)  # fmt: skip
        try:
            status = ab.ab_command("suite.yaml", **(given | options))
        finally:
            run.log, run.call_s, run.out = fake.log, fake.call_s, tmp_path / "out"
            assert fake.alive == [], "no worker is left"
            assert len(git(top, "worktree", "list").splitlines()) == 1, "no worktree is left"
            run.printed, run.errors = capsys.readouterr()
        return status

    return run


def records(out, side):
    return {(record.case.seqlen_q, record.backend): record for record in read(out / side).records}


def test_the_same_code_is_no_regression_and_both_sides_are_ordinary_runs(compared):
    assert compared() == 0
    base, head = (records(compared.out, side) for side in ("base", "head"))
    assert set(base) == set(head) == {(16, "mine"), (32, "mine")}
    for one, other in zip(base.values(), head.values()):
        assert [(b.process, b.round) for b in one.measurement.blocks] == [
            (b.process, b.round) for b in other.measurement.blocks
        ]
        assert {block.process for block in one.measurement.blocks} == set(range(5))
        assert one.measurement.together == other.measurement.together == ("base", "head")
        assert one.measurement.order_seed == other.measurement.order_seed is not None
    environments = [read(compared.out / side).environment for side in ("base", "head")]
    assert [facts["interleaved"]["arm"] for facts in environments] == ["base", "head"]
    assert environments[0]["interleaved"]["session"] == environments[1]["interleaved"]["session"]
    assert [facts["revision"]["ref"] for facts in environments] == ["one", "two"]
    assert "exit status 0: no regression" in compared.printed and not (compared.out / "confirm").exists()
    assert "head (two, " in compared.printed and ": mine on 2 cases\n" in compared.printed


def test_workers_take_turns_in_whole_rounds_of_abba_or_baab(compared):
    compared(processes=3)
    arms = [arm for arm, process, _, _ in compared.log]
    rounds = ["".join(arm[0] for arm in arms[place : place + 4]) for place in range(0, len(arms), 4)]
    assert set(rounds) == {"bhhb", "hbbh"} | {"bbbb"}, "the last is base against itself, two workers with one name"
    assert len(arms) == 2 * BLOCKS * 3 * 2 * 2, "blocks x processes x cases x (head against base, base against itself)"
    for process in range(3):
        mine = [(arm, round) for arm, at, round, _ in compared.log if at == process][: 4 * BLOCKS]
        assert mine.count(("base", 0)) == mine.count(("head", 0)) == 4, "two cases, two blocks a round"


def test_both_sides_take_a_call_to_last_the_same_so_that_their_blocks_are_alike(compared):
    compared(slower_by(0.5), processes=3)
    assert set(compared.call_s) == {alike("base", "mine", process) for process in range(3)}, "the faster one's"


def test_the_noise_floor_comes_from_base_against_itself(compared):
    noisy = itertools.cycle([1e-3, 1.05e-3])
    assert compared(lambda arm, backend, process: next(noisy) if arm == "base" else 1.025e-3) in (0, 4)
    assert "A/A noise floor" in compared.printed


def test_a_slower_head_is_confirmed_in_fresh_processes_and_then_is_a_regression(compared):
    assert compared(slower_by(0.05)) == 1
    assert "slower: 2 to be measured again in fresh processes before that counts" in compared.printed
    assert "confirmed in fresh processes" in compared.printed and "exit status 1: a regression" in compared.printed
    again = records(compared.out / "confirm", "head")
    assert set(again) == {(16, "mine"), (32, "mine")}
    assert {block.process for block in again[16, "mine"].measurement.blocks} == set(range(5))


def test_a_ci_system_reads_what_was_confirmed(compared, tmp_path, monkeypatch):
    summary, junit = tmp_path / "summary.md", tmp_path / "deep" / "ab.xml"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert compared(slower_by(0.05), junit=junit, github=True) == 1
    root = ElementTree.parse(junit).getroot()
    assert root.get("name") == "attnbench ab" and root.get("failures") == "3"  # two cases, and the suite as a whole
    said = [one.get("message") for one in root.iter("failure")]
    assert all("confirmed in fresh processes" in one for one in said)
    lines = [line for line in compared.printed.splitlines() if line.startswith("::error")]
    assert len(lines) == 3 and lines[0].startswith("::error title=attnbench ab::the suite as a whole is slower")
    assert summary.read_text().startswith("## attnbench ab: a regression")


def test_what_neither_side_can_do_is_told_apart_and_incomplete(compared):
    dead = {(arm, "bad", 0, "hold"): WorkerDied("gone") for arm in ("base", "head")}
    assert compared(habits=dead, backends_of=lambda side: ["naive", "mine", "bad"], only=("seqlen=16",)) == 3
    assert "1 fails as before, 1 same, of 2 cases" in compared.printed


def test_a_junit_file_that_cannot_be_written_is_told_before_anything_is_measured(compared, tmp_path):
    with pytest.raises(UserError, match="is a folder; choose another --junit"):
        compared(junit=tmp_path)
    assert compared.log == [] and not compared.out.exists()


def test_what_is_slower_once_and_not_again_does_not_count(compared, tmp_path):
    def until_confirmed(arm, backend, process):
        slow = arm == "head" and not (tmp_path / "out" / "confirm").exists()
        return alike(arm, backend, process) * (1.05 if slow else 1.0)

    assert compared(until_confirmed) == 0
    assert "not confirmed in fresh processes" in compared.printed
    assert "slower: 2 to be measured again" in compared.printed


def test_one_slow_case_is_named_and_only_it_is_measured_again(compared):
    def seconds(arm, backend, process):
        return alike(arm, backend, process) * (1.08 if arm == "head" and backend == "bad" else 1.0)

    names = ["naive", *(f"mine{place}" for place in range(11)), "bad"]
    assert compared(seconds, backends_of=lambda side: names, only=("seqlen=16",)) == 1
    again = records(compared.out / "confirm", "base")
    assert set(again) <= {(16, name) for name in names} and (16, "bad") in again
    line = next(line for line in compared.printed.splitlines() if "bad" in line.split() and "slower" in line)
    assert "+8." in line


def test_a_wrong_head_is_a_regression_and_is_not_timed(compared):
    habits = {("head", "mine", process, "hold"): "wrong" for process in range(5)}
    assert compared(habits=habits) == 1
    base, head = (records(compared.out, side)[16, "mine"] for side in ("base", "head"))
    assert (head.status, base.status, base.measurement) == ("incorrect", "ok", None)
    assert "head" not in {arm for arm, *_ in compared.log}
    assert {process for _, process, *_ in compared.log} == set(), "nothing was timed against it, nor again"


@pytest.mark.parametrize(("event", "kind"), [(WorkerDied("killed by SIGSEGV"), "crash"), (WorkerSilent(), "timeout")])
def test_a_head_that_dies_in_its_turn_is_an_error_and_base_keeps_its_other_processes(compared, event, kind):
    assert compared(habits={("head", "mine", 1, "block"): event}) == 3
    head = records(compared.out, "head")[16, "mine"]
    assert (head.status, head.kind) == ("error", kind) and head.reason.startswith("in phase time: ")
    base = records(compared.out, "base")[16, "mine"]
    assert {block.process for block in base.measurement.blocks} == {0}
    assert base.warnings == ("timed in 1 of 2 processes: the other side failed",)


def test_a_worker_that_dies_is_replaced_and_the_next_case_goes_on(compared):
    assert compared(habits={("base", "mine", 0, "hold"): WorkerDied("gone")}, only=()) == 3
    assert [record.status for record in read(compared.out / "base").records] == ["error", "error"]
    assert [record.status for record in read(compared.out / "head").records] == ["ok", "ok"]


def test_an_interruption_loses_no_record_and_leaves_nothing_behind(compared):
    assert compared(habits={("head", "mine", 2, "block"): KeyboardInterrupt()}) == 130
    for side in ("base", "head"):
        for record in read(compared.out / side).records:
            assert {block.process for block in record.measurement.blocks} == {0, 1}
    assert "interrupted; the records so far: " in compared.printed


def test_an_interrupted_comparison_goes_on_where_it_stopped(compared, tmp_path):
    out = tmp_path / "out"
    assert compared(habits={("head", "mine", 2, "block"): KeyboardInterrupt()}) == 130
    assert f"the same command with --resume {out} goes on" in compared.printed
    assert compared(out=None, resume=out) == 0
    assert {process for _, process, *_ in compared.log} == {2, 3, 4}, "nothing is measured twice"
    for side in ("base", "head"):
        for record in read(out / side).records:
            assert {block.process for block in record.measurement.blocks} == set(range(5))
    assert len(read(out / "base").environment["resumed"]) == 1
    assert "A/A noise floor" in compared.printed


def test_a_comparison_that_was_killed_loses_the_pair_that_was_being_written(compared, tmp_path):
    journal = tmp_path / "out" / JOURNAL
    assert compared(slower_by(0.05)) == 1
    whole = journal.read_bytes()
    assert len(whole.splitlines()) == 5 * 2 * 2, "processes x cases x (against head, against itself)"
    journal.write_bytes(whole[:-40])
    for made in ("base", "head", "confirm"):
        shutil.rmtree(tmp_path / "out" / made)
    assert compared(slower_by(0.05), out=None, resume=tmp_path / "out") == 1
    first = [entry for entry in compared.log if entry[0] == "base"][: 2 * BLOCKS]
    assert {process for _, process, *_ in first} == {4} and len(journal.read_bytes().splitlines()) == 20
    assert compared(slower_by(0.05), out=None, resume=tmp_path / "out") == 1
    assert compared.log == [], "all that was measured, the confirmation too, is there"


def test_the_checkout_as_it_is_goes_on_while_its_files_are_the_same(compared, tmp_path):
    kernel = tmp_path / "repository" / "kernel.py"
    kernel.write_text("three")
    options = {"processes": 3, "head": "."}
    assert compared(habits={("head", "mine", 1, "block"): KeyboardInterrupt()}, **options) == 130
    time.sleep(1.1)  # a commit's time is in whole seconds
    assert compared(out=None, resume=tmp_path / "out", **options) == 0
    assert {process for _, process, *_ in compared.log} == {1, 2}
    kernel.write_text("four")
    with pytest.raises(UserError, match=r"head was begun with revision . \(\w{10}\), not . \("):
        compared(out=None, resume=tmp_path / "out", **options)


def test_what_would_be_another_comparison_is_not_resumed(compared, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no `attnbench ab` was begun there"):
        compared(out=None, resume=out)
    assert compared(processes=3) == 0
    for options, message in (
        ({"processes": 3, "head": "one"}, r"head was begun with revision two \(\w{10}\), not one \(\w{10}\); use"),
        ({"processes": 2}, "base was begun with --processes 3; 2 are fewer, and only more may be asked for"),
        ({"processes": 3, "only": ("seqlen=16",)}, "it was begun with other cases or backends"),
        ({"processes": 3, "out": tmp_path / "else"}, "continues in that directory; leave out --out"),
    ):
        with pytest.raises(UserError, match=message):
            compared(**{"out": None, "resume": out, **options})
        assert compared.log == []
    monkeypatch.setattr(ab.environment, "collect", lambda device: {"machine": "another", "cpu": {"model": "x"}})
    with pytest.raises(UserError, match="the machine is not as it was; machine: made before, another now; use"):
        compared(processes=3, out=None, resume=out)
    monkeypatch.setattr(ab.environment, "collect", lambda device: {"machine": "made", "cpu": {"model": "x"}})
    (out / COMPARISON).write_text("[]")
    with pytest.raises(UserError, match="comparison.json does not say what was compared"):
        compared(processes=3, out=None, resume=out)
    shutil.rmtree(out)
    assert compared(processes=3) == 0
    (out / JOURNAL).write_text('{"against":"head"}\n')
    with pytest.raises(UserError, match=r"processes.jsonl:1: .*cannot be continued"):
        compared(processes=3, out=None, resume=out)


def test_checks_alone_are_compared_where_a_suite_times_nothing(compared, tmp_path):
    (tmp_path / "repository" / "suite.yaml").write_text(SUITE.replace("name: all,", "name: all, time: false,"))
    assert compared(processes=2) == 0
    assert compared.log == [] and "2 checked only" in compared.printed


def test_strict_and_inconclusive_is_4(compared):
    """10 % slower in one process and faster in the next, whatever the order of turns, which follows the commits."""
    assert compared(lambda arm, backend, process: 1e-3 + 1e-4 * (arm == "head") * (-1) ** process, strict=True) == 4


def test_what_is_compared_is_said(compared, tmp_path):
    (tmp_path / "repository" / "kernel.py").write_text("changed")
    compared(plugins=(), backends_of=lambda side: ["naive"], head="one", processes=3)
    assert "note: what is not committed in " in compared.printed and "(1 file) is in neither side" in compared.printed
    assert "note: both are the same commit, so whatever differs is noise" in compared.printed
    assert "note: naive: not from a plugin, the same code on both sides" in compared.printed
    assert "note: nothing here comes from the repository; --plugin names a kernel that does" in compared.printed


def test_what_only_head_has_is_said_and_the_rest_is_compared(compared):
    assert compared(backends_of=lambda side: ["naive", "mine", *(["new"] if side == "head" else [])], processes=2) == 0
    assert re.search(r"note: new is new in head \(two, \w+\): nothing to hold it against", compared.printed)
    assert {record.backend for record in read(compared.out / "head").records} == {"mine"}


def test_two_processes_are_said_to_decide_nothing(compared):
    assert compared(processes=2) == 0
    assert "note: verdicts are inconclusive with fewer than 3 processes" in compared.printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 1}, "--processes 1: 2 at least, and 3 for a verdict"),
        ({"base": "nowhere"}, "--base nowhere: no such commit, branch or tag"),
        ({"plugins": ("other.py:mine",)}, r'plugin "other.py:mine": base \(one, \w+\) has no file other.py'),
        ({"plugins": ("/nowhere/other.py:mine",)}, "there is no file /nowhere/other.py"),
        ({"backends": ("mien",)}, r'unknown backend "mien" \(did you mean "mine"\?\)'),
        ({"only": ("seqlen=9",)}, 'no case of suite "small" has seqlen'),
        ({"device": "gpu"}, 'unknown device "gpu"'),
        ({"backends": ("new",)}, r'backend "new" is in head \(two, \w+\) and not in base \(one, \w+\); name those'),
        ({}, r'backend "old" is in base \(one, \w+\) and not in head'),
        ({"habits": {"refuse": "no kernel"}}, r"base \(one, \w+\): no kernel"),
        (
            {"habits": {"strays": ["kernel.py"]}, "backends": ("mine",)},
            "imported kernel.py from the checkout .* and not from its own folder",
        ),
    ],
)
def test_a_mistake_is_one_line(compared, options, message):
    def named(side):
        return ["naive", "mine", "new" if side == "head" else "old"]

    with pytest.raises(UserError, match=message) as caught:
        compared(backends_of=named, **options)
    assert "\n" not in str(caught.value)


def test_a_build_that_fails_is_incomplete_and_shows_why(compared, tmp_path):
    assert compared(build="echo no rule; exit 7", junit=tmp_path / "ab.xml", github=True) == 3
    assert ElementTree.parse(tmp_path / "ab.xml").getroot().get("errors") == "1"
    assert "::error title=attnbench ab::--build failed in base (one, " in compared.printed
    assert "building base (one, " in compared.printed and not compared.log
    assert "attnbench: --build failed in base (one, " in compared.errors and "no rule" in compared.errors


def test_a_build_runs_in_both_folders_ahead_of_everything(compared, tmp_path):
    assert compared(build=f"cat kernel.py >> {tmp_path}/built; echo >> {tmp_path}/built", processes=2) == 0
    assert (tmp_path / "built").read_text().split() == ["one", "two"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 40])
def test_cases_for_the_null_are_spread_over_the_suite(count):
    (job, _) = parse_suite(SUITE, "made.yaml").jobs()
    tasks = [Task(job, str(place)) for place in range(count)]
    chosen = [int(task.backend) for task in null_tasks(tasks)]
    assert len(set(chosen)) == len(chosen) == min(count, NULL_CASES) and chosen == sorted(chosen)
    assert count < 40 or chosen == [6, 20, 33]
    untimed = [dataclasses.replace(task, job=dataclasses.replace(job, time=False)) for task in tasks]
    assert null_tasks(untimed) == []


KERNELS = """
from attnbench.plugins import FunctionBackend


def steady(q, k, v, *, causal, softmax_scale):
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    out = (q @ k.transpose(2, 3) * softmax_scale).softmax(dim=-1) @ v
    return out.transpose(1, 2).half().contiguous()


def spoilt(q, k, v, **options):
    return {factor} * steady(q, k, v, **options)


BACKENDS = tuple(FunctionBackend(kernel.__name__, kernel, "a test") for kernel in (steady, spoilt))
"""


@pytest.fixture
def kernels(command):
    """A repository with a plugin whose second kernel is wrong in `head`; and the command's options for it."""
    top = command.folder / "repository"
    (top / "sub").mkdir(parents=True)
    git(top, "init", "--quiet")
    for tag, factor in (("base", 1.0), ("head", 1.5)):
        (top / "sub" / "kernels.py").write_text(KERNELS.replace("{factor}", str(factor)))
        git(top, "add", ".")
        git(top, "commit", "--quiet", "-m", tag)
        git(top, "tag", tag)
    suite = command.suite("batch: 1, num_heads: 1, head_dim: 16, seqlen: 16, dtype: fp16, causal: false")
    command.folder = top / "sub"
    return top, ("ab", "--base", "base", "--head", "head", suite, "--plugin", "kernels.py", "--device", "cpu")


def test_real_workers_import_each_revision_from_its_own_folder(command, kernels):
    top, options = kernels
    done = command(*options, "--processes", 2, "--out", "../out")
    assert done.returncode == 1, done.stdout + done.stderr
    base, head = ({r.backend: r for r in read(top / "out" / side).records} for side in ("base", "head"))
    assert (base["spoilt"].status, head["spoilt"].status) == ("ok", "incorrect")
    assert base["steady"].measurement.together == head["steady"].measurement.together == ("base", "head")
    assert {block.process for block in head["steady"].measurement.blocks} == {0, 1}
    starts = [sorted((b.start_s, side) for b in found["steady"].measurement.blocks if b.process == 0)
              for side, found in (("b", base), ("h", head))]  # fmt: skip
    order = "".join(side for _, side in sorted(itertools.chain(*starts)))
    assert set(re.findall("....", order)) <= {"bhhb", "hbbh"} and len(order) >= 4
    assert len(git(top, "worktree", "list").splitlines()) == 1
    assert "wrong" in done.stdout and "Traceback" not in done.stderr


def test_ctrl_c_leaves_no_worktree_and_no_worker_and_keeps_the_records(command, kernels):
    top, options = kernels
    process = command.start(*options, "--processes", 50, "--out", "../out", "--backend", "steady")
    for line in process.stdout:
        if line.startswith("[1/50]"):
            break
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; the records so far: " in printed and "Traceback" not in errors
    assert not any(map(is_alive, workers)) and len(git(top, "worktree", "list").splitlines()) == 1
    assert [record.status for record in read(top / "out" / "head").records] == ["ok"]


def test_a_comparison_that_goes_on_may_take_more_processes(compared, tmp_path):
    out = tmp_path / "out"
    assert compared(processes=3) == 0
    assert compared(processes=5, out=None, resume=out) == 0
    assert {process for _, process, _, _ in compared.log} == {3, 4}, "only what is new is measured"
    blocks = records(out, "base")[16, "mine"].measurement.blocks
    assert {block.process for block in blocks} == set(range(5))
    assert read(out / "base").environment["processes"] == 5
    with pytest.raises(UserError, match="begun with --processes 5; 4 are fewer"):
        compared(processes=4, out=None, resume=out)


def test_what_is_left_is_told_and_so_is_what_would_have_been_found(compared):
    assert compared(processes=3) == 0
    lines = [line for line in compared.printed.splitlines() if line.startswith("[")]
    assert len(lines) == 6 and all(line.endswith(" left]") for line in lines)
    said = r"smallest slowdown: 0\.\d+ % would have shown.*; called slower from \d\.\d+ % on \(80 % of the times\)"
    assert re.search(said, compared.printed), compared.printed


def test_a_bar_on_a_terminal(compared, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert compared(processes=3) == 0
    assert "12/12" in compared.printed, "pairs of both cases in three processes, and of base against itself"


def test_medians_that_lie_the_other_way_are_explained():
    """Head is faster round by round; one moment in which it alone was disturbed moves its median, and no round's."""

    def side(which, levels):
        blocks = [Block((level,) * 10, 10, 0, place, which) for place, level in enumerate(levels)]
        return ok("mine", 1.0, timing={"blocks": tuple(blocks), "timer": "cpu"})

    base = side("base", (1e-3, 1e-3, 2e-3, 2e-3, 1e-3))
    head = side("head", (0.99e-3, 0.99e-3, 1.98e-3, 1.98e-3, 1.98e-3 / 2 + 1.2e-3))
    line = pair_outcome(base, head)
    assert line.endswith("in turns -1.00 % (round by round; the times alone, of other moments each, say +98.00 %)")
    assert "alone" not in pair_outcome(base, side("head", (1.1e-3, 1.1e-3, 2.2e-3, 2.2e-3, 1.1e-3)))
    assert medians_apart(1.0, 1.00002, -0.00002) == "", "both are shown as 0.00 %"
