"""The parent's bookkeeping with workers that do as they are told: who gets which record, when a worker is replaced."""

import dataclasses
from collections import Counter

import pytest
from fakes.report_runs import accuracy, measurement

from attnbench.case import Case
from attnbench.messages import (
    CheckPassed,
    JobDone,
    PhaseBegun,
    Poisoned,
    Ready,
    RecordMade,
    SentinelTaken,
    TakeSentinel,
)
from attnbench.plugins import plain_spec
from attnbench.records.record import Check, Record, merge_processes
from attnbench.run import runner
from attnbench.run import supervisor as supervisor_module
from attnbench.run.process import RunError, WorkerDied, WorkerRefused, WorkerSilent, WorkerStuck
from attnbench.run.runner import choose_backends
from attnbench.run.supervisor import Listener, Supervisor
from attnbench.suite.load import parse_suite

SUITE = """
groups: [{name: all, axes: {batch: 1, num_heads: 1, head_dim: 16, seqlen: [16, 32], dtype: fp16}}]
timing: {timeout_s: 50}
"""
JOB = parse_suite(SUITE, "made.yaml").jobs()[0]


def passed(backend, case=JOB.case):
    return Record(case, backend, "1", "ok", accuracy=dataclasses.replace(accuracy(), recheck=""))


def timed(backend, *times_s, **fields):
    record = passed(backend)
    return dataclasses.replace(record, accuracy=accuracy(), measurement=measurement(times_s[0], **fields))


def phase(backend, name):
    return PhaseBegun(backend, name)


def told(record):
    return RecordMade(record.to_json())


DONE = JobDone({"check": 1.5})


class ScriptedWorker:
    """Plays one script a worker: events are given, exceptions raised, one after the other."""

    scripts, hired, submitted, allowed_s, at = [], 0, [], [], ()

    def __init__(self, device, plugins, interpret="", trust="trusted"):
        type(self).hired += 1
        self.script, self.alive, self.seen = iter(self.scripts[self.hired - 1]), True, iter(self.at)

    def start(self):
        return Ready(facts={}, backends={})

    def submit(self, job):
        self.submitted.append(list(job.backends))

    def next_event(self, timeout_s):
        self.allowed_s.append(timeout_s)
        event = next(self.script)
        if isinstance(event, Exception):
            raise event
        return event

    def stacks(self):
        """One after the other, as a silent worker is asked; empty where it was told none."""
        return next(self.seen, "")

    def kill(self):
        self.alive = False


@pytest.fixture
def work(monkeypatch):
    """Runs JOB on backends a, b, c with scripted workers: (records, jobs, workers hired, time-outs, spent_s)."""

    def play(*scripts, backends=("a", "b", "c"), at=()):
        parts = dict(scripts=scripts, hired=0, submitted=[], allowed_s=[], at=at)
        scripted = type("Scripted", (ScriptedWorker,), parts)
        monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
        records, spent_s = [], Counter()
        Supervisor("cpu", ()).work(JOB, backends, records.append, lambda backend, phase: None, spent_s)
        return records, scripted.submitted, scripted.hired, scripted.allowed_s, spent_s

    return play


@pytest.mark.parametrize(
    ("event", "figures", "hired"),
    [
        (SentinelTaken({"gemm_flops_per_s": 1e12}), {"gemm_flops_per_s": 1e12}, 1),
        (PhaseBegun("a", "time"), {"error": "asked for a sentinel, it said PhaseBegun"}, 2),
        (WorkerDied("gone"), {"error": "gone"}, 2),
        (WorkerSilent(), {"error": "no figures within 60 s"}, 2),
    ],
)
def test_a_sentinel_costs_no_more_than_the_worker(monkeypatch, event, figures, hired):
    scripts = ([event, DONE], [DONE])
    scripted = type("Scripted", (ScriptedWorker,), dict(scripts=scripts, hired=0, submitted=[], allowed_s=[]))
    scripted.submit = lambda self, job: self.submitted.append(job)
    monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
    supervisor = Supervisor("cpu", ())
    assert supervisor.take_sentinel() == figures
    supervisor.restart()  # a sentinel is no measurement: the process still counts as fresh
    supervisor.work(JOB, (), None, None, Counter())
    assert scripted.submitted == [TakeSentinel()]
    if hired == 2:
        supervisor.start()
    assert scripted.hired == hired


def outcomes(records):
    return [(record.backend, record.status, record.kind) for record in records]


def test_one_worker_does_a_whole_job(work):
    script = [event for name in "abc" for event in (phase(name, "start"), phase(name, "check"), told(passed(name)))]
    records, submitted, hired, _, spent_s = work([*script, DONE])
    assert outcomes(records) == [(name, "ok", None) for name in "abc"]
    assert (submitted, hired, spent_s) == ([["a", "b", "c"]], 1, {"check": 1.5})


def test_a_death_costs_the_record_at_work_and_the_rest_goes_to_a_fresh_worker(work):
    first = [phase("a", "start"), told(passed("a")), phase("b", "start"), phase("b", "check")]
    first.append(WorkerDied("gone", "oom"))
    second = [phase("c", "start"), told(passed("c")), DONE]
    records, submitted, hired, _, _ = work(first, second)
    assert outcomes(records) == [("a", "ok", None), ("b", "error", "oom"), ("c", "ok", None)]
    assert records[1].reason == "in phase check: gone"
    assert (submitted, hired) == ([["a", "b", "c"], ["c"]], 2)


def test_a_death_between_records_costs_none(work):
    first = [phase("a", "start"), told(passed("a")), WorkerDied("gone")]
    second = [phase("b", "start"), told(passed("b")), phase("c", "start"), told(passed("c")), DONE]
    records, submitted, _, _, _ = work(first, second)
    assert outcomes(records) == [(name, "ok", None) for name in "abc"]
    assert submitted == [["a", "b", "c"], ["b", "c"]]


def test_a_death_after_the_last_record_needs_no_other_worker(work):
    records, _, hired, _, _ = work([phase("a", "start"), told(passed("a")), WorkerDied("gone")], backends=("a",))
    assert outcomes(records) == [("a", "ok", None)] and hired == 1


def test_workers_that_die_at_once_end_in_a_record_each(work):
    records, _, hired, _, _ = work(*[[WorkerDied("gone")]] * 3)
    assert outcomes(records) == [(name, "error", "crash") for name in "abc"] and hired == 3
    assert records[0].reason == "gone"


def test_silence_is_a_timeout(work):
    records, _, hired, _, spent_s = work(
        [phase("a", "start"), phase("a", "time"), WorkerSilent()], [phase("b", "start"), told(passed("b")), DONE],
        backends=("a", "b"),
    )  # fmt: skip
    assert set(spent_s) == {"check", "crashes and time-outs"}, "what a hung worker took is no overhead of the harness"
    assert outcomes(records) == [("a", "error", "timeout"), ("b", "ok", None)] and hired == 2
    assert records[0].reason == (
        "in phase time: a call did not return within 50 s; it was ended (timeout_s, --timeout)"
    )
    assert records[0].accuracy is None


def test_a_worker_that_cannot_be_ended_ends_the_run_once_its_record_is_kept(monkeypatch):
    def kill(self):
        raise WorkerStuck("it waits in a driver")

    script = [phase("a", "start"), phase("a", "time"), WorkerSilent()]
    parts = dict(scripts=[script], hired=0, submitted=[], allowed_s=[], kill=kill)
    scripted = type("Scripted", (ScriptedWorker,), parts)
    monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
    records, supervisor = [], Supervisor("cpu", ())
    with pytest.raises(RunError, match="it waits in a driver"):
        supervisor.work(JOB, ["a", "b"], records.append, lambda backend, phase: None, Counter())
    assert outcomes(records) == [("a", "error", "timeout")] and scripted.hired == 1
    supervisor.stop()  # there is nobody left to end


def checked_and_taking_turns(*names):
    """Three backends that passed and are timed in turns, up to the moment that the last one named is at work."""
    checks = [event for name in "abc" for event in (phase(name, "start"), phase(name, "check"))]
    return [*checks, *(phase(name, "time") for name in names)]


def test_one_that_dies_while_timed_with_others_is_tried_alone_and_the_others_go_on_without_it(work):
    first = [*checked_and_taking_turns(*"abcb"), WorkerDied("gone")]
    second = [phase("b", "start"), phase("b", "time"), WorkerDied("gone again")]
    third = [phase("a", "start"), phase("c", "start"), phase("a", "time"), phase("c", "time")]
    third += [told(timed("a", 1e-3)), told(timed("c", 1e-3)), DONE]
    records, submitted, hired, _, _ = work(first, second, third)
    assert outcomes(records) == [("b", "error", "crash"), ("a", "ok", None), ("c", "ok", None)]
    assert records[0].reason == "in phase time: gone again"
    assert (submitted, hired) == ([["a", "b", "c"], ["b"], ["a", "c"]], 3)
    assert records[1].warnings == records[2].warnings == ()


def test_one_that_is_right_alone_was_not_the_culprit_and_says_that_it_was_timed_alone(work):
    first = [*checked_and_taking_turns(*"abc"), WorkerDied("killed by SIGSEGV")]
    second = [phase("c", "start"), phase("c", "time"), told(timed("c", 1e-3)), DONE]
    second += [*checked_and_taking_turns("a", "b", "a"), WorkerDied("killed by SIGSEGV")]
    third = [phase("a", "start"), phase("a", "time"), WorkerDied("killed by SIGSEGV")]
    fourth = [phase("b", "start"), phase("b", "time"), told(timed("b", 1e-3)), DONE]
    records, submitted, _, _, _ = work(first, second, third, fourth)
    assert outcomes(records) == [("c", "ok", None), ("a", "error", "crash"), ("b", "ok", None)]
    assert records[0].warnings == ("timed alone: killed by SIGSEGV, when it was timed with others",)
    assert records[2].warnings == ()
    assert submitted == [["a", "b", "c"], ["c"], ["a", "b"], ["a"], ["b"]]


def test_one_that_begins_after_the_others_were_timed_was_not_timed_with_them(work):
    """As an emulated one does."""
    first = [phase("a", "start"), phase("b", "start"), phase("a", "time"), phase("b", "time")]
    first += [told(timed("a", 1e-3)), told(timed("b", 1e-3)), phase("c", "start"), WorkerDied("gone")]
    records, submitted, _, _, _ = work(first)
    assert outcomes(records) == [("a", "ok", None), ("b", "ok", None), ("c", "error", "crash")]
    assert submitted == [["a", "b", "c"]] and records[2].reason == "gone"


def test_one_that_hangs_in_its_turn_is_the_culprit(work):
    first = [*checked_and_taking_turns(*"abcb"), WorkerSilent()]
    second = [phase("a", "start"), phase("a", "time"), phase("c", "time"), told(timed("a", 1e-3)),
              told(timed("c", 1e-3)), DONE]  # fmt: skip
    records, submitted, _, _, _ = work(first, second)
    assert outcomes(records) == [("b", "error", "timeout"), ("a", "ok", None), ("c", "ok", None)]
    assert submitted == [["a", "b", "c"], ["a", "c"]]


def test_every_word_of_a_worker_is_a_call_that_returned(work):
    """However long a backend is measured: only what does not return is ended."""
    script = [phase("a", "start"), phase("a", "check"), *[phase("a", "time")] * 100, told(timed("a", 1e-3)), DONE]
    records, _, _, allowed_s, _ = work(script, backends=("a",))
    assert outcomes(records) == [("a", "ok", None)]
    assert set(allowed_s) == {50.0} and len(allowed_s) == len(script)


HANGS = """Current thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 5 in wait
  File "/home/me/own.py", line 12 in inner
  File "/home/me/own.py", line 30 in mine
"""
COMPILES = """Thread 0x00007f (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/_inductor/graph.py", line 2 in run
  File "/venv/lib/python3.11/site-packages/torch/_dynamo/eval_frame.py", line 9 in compile_wrapper
  File "/home/me/own.py", line 30 in mine
"""
RUNS_COMPILED = """Current thread 0x00007f (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/_inductor/output_code.py", line 2 in __call__
  File "/venv/lib/python3.11/site-packages/torch/_dynamo/eval_frame.py", line 9 in compile_wrapper
  File "/home/me/own.py", line 30 in mine
"""


def test_what_hangs_says_where_and_keeps_the_check_that_it_passed(work):
    first = [phase("a", "start"), CheckPassed(passed("a").to_json()), phase("a", "time"), WorkerSilent()]
    records, _, _, _, _ = work(first, backends=("a",), at=(HANGS,))
    assert outcomes(records) == [("a", "error", "timeout")]
    assert records[0].reason.endswith("; it was at own.py:12 inner < own.py:30 mine")
    assert records[0].accuracy == passed("a").accuracy and records[0].accuracy.passed


def test_what_a_worker_prints_is_told_as_it_comes_and_by_whom(monkeypatch):
    said = iter(["hello from a plugin\n", "", "a", "aa\n", "b"])
    script = [phase("a", "start"), phase("b", "start"), told(passed("a")), WorkerDied("gone")]
    parts = dict(scripts=[script], hired=0, submitted=[], allowed_s=[], new_output=lambda self: next(said))
    monkeypatch.setattr(supervisor_module, "WorkerProcess", type("Scripted", (ScriptedWorker,), parts))
    heard = []
    supervisor = Supervisor("cpu", (), lambda backend, text: heard.append((backend, text)))
    records = []
    supervisor.work(JOB, ["a"], records.append, lambda backend, phase: None, Counter())
    assert heard == [("", "hello from a plugin\n"), ("a", ""), ("a", "a"), ("b", "aa\n"), ("b", "b")]


def test_a_death_while_timed_keeps_the_check_too(work):
    first = [phase("a", "start"), CheckPassed(passed("a").to_json()), phase("a", "time"), WorkerDied("gone")]
    records, *_ = work(first, backends=("a",))
    assert outcomes(records) == [("a", "error", "crash")] and records[0].accuracy.passed


def test_compiling_has_a_limit_of_its_own(work):
    """Eleven more times 50 s until 600 s have passed, the last time as long as is left."""
    silent = [WorkerSilent()] * 12
    records, _, _, allowed_s, _ = work([phase("a", "check"), *silent], backends=("a",), at=[COMPILES] * 12)
    assert allowed_s == [50.0] * 13
    assert records[0].reason.startswith(
        "in phase check: compiling took more than 600 s; it was ended (compile_timeout_s); it was at "
    )


def test_a_call_after_its_compilation_has_as_long_as_any_other(work):
    script = [phase("a", "check"), WorkerSilent(), WorkerSilent(), told(passed("a")), DONE]
    records, *_ = work(script, backends=("a",), at=[COMPILES, RUNS_COMPILED])
    assert outcomes(records) == [("a", "ok", None)]
    script = [phase("a", "check"), WorkerSilent(), WorkerSilent(), WorkerSilent()]
    records, *_ = work(script, backends=("a",), at=[COMPILES, RUNS_COMPILED, RUNS_COMPILED])
    assert records[0].reason.startswith("in phase check: a call did not return within 50 s; it was ended")


def test_a_broken_cuda_context_is_left_behind(work):
    failed = dataclasses.replace(passed("a"), status="error", kind="exception", reason="CUDA error", accuracy=None)
    first = [phase("a", "start"), told(failed), Poisoned("sticky")]
    records, submitted, hired, _, _ = work(first, [phase("b", "start"), told(passed("b")), DONE], backends=("a", "b"))
    assert outcomes(records) == [("a", "error", "exception"), ("b", "ok", None)]
    assert (submitted, hired) == ([["a", "b"], ["b"]], 2)


@pytest.mark.parametrize(
    "lie",
    [
        RecordMade("{}"),
        RecordMade("no json"),
        told(passed("nobody")),
        told(passed("a", Case.make(batch=9, seqlen=9, num_heads=9, head_dim=8))),
    ],
)
def test_a_record_that_nobody_asked_for_is_not_kept(work, lie):
    records, _, hired, _, _ = work([phase("a", "start"), lie], [phase("b", "start"), told(passed("b")), DONE],
                                   backends=("a", "b"))  # fmt: skip
    assert outcomes(records) == [("a", "error", "crash"), ("b", "ok", None)] and hired == 2


def test_the_harness_own_work_does_not_count_against_a_backend(work):
    script = [
        phase("a", "start"), phase("a", "inputs"), phase("a", "oracle"), phase("a", "check"), phase("a", "time"),
        told(passed("a")), DONE,
    ]  # fmt: skip
    _, _, _, allowed_s, _ = work(script, backends=("a",))
    harness_s = supervisor_module.HARNESS_TIMEOUT_S
    #                    start  start inputs     oracle     check time  its record is in
    assert allowed_s == [50.0, 50.0, harness_s, harness_s, 50.0, 50.0, 50.0]


def test_the_worker_gets_the_job():
    sent = Listener(JOB, ["a"], print, print, Counter()).run_case(process=2, bits="/x")
    assert (sent.case, sent.backends, sent.time) == (JOB.case, ("a",), True)
    assert (sent.timing, sent.checks, sent.process, sent.bits) == (JOB.timing, JOB.checks, 2, "/x")


def test_a_case_has_a_seed_that_follows_from_the_runs_and_tells_nothing_of_it():
    def seed(run_seed, job=JOB):
        return Listener(job, ["a"], print, print, Counter(), seed=run_seed).run_case().seed

    assert seed(None) is None
    other = dataclasses.replace(JOB, case=dataclasses.replace(JOB.case, seed=JOB.case.seed + 1))
    assert seed(7) == seed(7) and len({seed(7), seed(8), seed(7, other), 7}) == 4
    assert all(0 <= seed(number) < supervisor_module.SEEDS for number in range(200))


@pytest.mark.parametrize("error", [WorkerRefused("no such plugin"), WorkerDied("gone", output="Traceback\nlast line")])
def test_a_worker_that_cannot_start_ends_the_run_in_one_line(monkeypatch, error):
    def start(self):
        raise error

    monkeypatch.setattr(ScriptedWorker, "scripts", [[]])
    monkeypatch.setattr(ScriptedWorker, "hired", 0)
    monkeypatch.setattr(ScriptedWorker, "start", start)
    monkeypatch.setattr(supervisor_module, "WorkerProcess", ScriptedWorker)
    with pytest.raises(RunError) as caught:
        Supervisor("cpu", ()).start()
    assert str(caught.value) in ("no such plugin", "no worker could start, gone: last line")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_process_of_a_job_is_a_fresh_one(monkeypatch, processes):
    scripts = [[phase("a", "start"), told(timed("a", 1e-3 * (n + 1))), DONE] for n in range(processes)]
    scripted = type("Scripted", (ScriptedWorker,), dict(scripts=scripts, hired=0, submitted=[], allowed_s=[]))
    monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
    job = dataclasses.replace(JOB, timing=JOB.timing.model_copy(update={"processes": processes}))
    hands = Supervisor("cpu", ())
    hands.start()
    (record,) = runner._replicated(hands, job, ["a"], print, Counter())
    assert scripted.hired == processes
    assert [block.process for block in record.measurement.blocks] == list(range(processes))


def test_the_rest_of_a_half_recorded_case_says_whom_it_was_timed_apart_from():
    taken = [timed("a", 1e-3), passed("b"), timed("c", 1e-3)]
    note = runner._apart(JOB, taken)
    assert note == "timed apart from a, c, whose records are from before this run was resumed"
    other = parse_suite(SUITE, "made.yaml").jobs()[1]
    assert runner._apart(other, taken) == runner._apart(JOB, [passed("b")]) == ""
    alone = dataclasses.replace(JOB, timing=JOB.timing.model_copy(update={"interleave": False}))
    assert runner._apart(alone, taken) == ""


def test_a_note_stands_on_records_that_were_timed_only(monkeypatch):
    script = [phase("a", "start"), told(passed("a")), phase("b", "start"), told(timed("b", 1e-3)), DONE]
    scripted = type("Scripted", (ScriptedWorker,), dict(scripts=[script], hired=0, submitted=[], allowed_s=[]))
    monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
    records = []
    Supervisor("cpu", ()).work(JOB, ["a", "b"], records.append, lambda *phase: None, Counter(), note="apart")
    assert [record.warnings for record in records] == [(), ("apart",)]


def test_one_process_that_fails_fails_the_record_and_needs_no_further_one(monkeypatch):
    scripts = [
        [phase("a", "start"), told(timed("a", 1e-3)), phase("b", "start"), told(timed("b", 1e-3)), DONE],
        [phase("a", "start"), phase("a", "time"), WorkerDied("gone")],
        [phase("b", "start"), told(timed("b", 2e-3)), DONE],
        [phase("b", "start"), told(timed("b", 3e-3)), DONE],
    ]
    scripted = type("Scripted", (ScriptedWorker,), dict(scripts=scripts, hired=0, submitted=[], allowed_s=[]))
    monkeypatch.setattr(supervisor_module, "WorkerProcess", scripted)
    job = dataclasses.replace(JOB, timing=JOB.timing.model_copy(update={"processes": 3}))
    records = runner._replicated(Supervisor("cpu", ()), job, ["a", "b"], print, Counter())
    assert outcomes(records) == [("a", "error", "crash"), ("b", "ok", None)]
    assert scripted.submitted == [["a", "b"], ["a", "b"], ["b"], ["b"]]
    assert len(records[1].measurement.blocks) == 3


def test_merging_keeps_everything_that_processes_said():
    unsure = {"converged": False, "unmet": ("time",), "outliers": ((0, 3),)}
    first = dataclasses.replace(timed("a", 1e-3, outliers=((0, 1),)), warnings=("w",))
    second = dataclasses.replace(timed("a", 2e-3, **unsure), warnings=("w", "x"))
    strained = Check("relative RMSE", 2.9e-3, 3e-3, True)
    second = dataclasses.replace(second, accuracy=dataclasses.replace(accuracy(), checks=(strained,)))
    merged = merge_processes([first, second])
    assert merged.measurement.outliers == ((0, 1), (1, 3))
    assert (merged.measurement.converged, merged.measurement.unmet) == (False, ("time",))
    assert merged.warnings == ("w", "x")
    assert merged.accuracy.checks == (strained,), "the accuracy that came closest to its limit"
    assert merged.measurement.samples_s == first.measurement.samples_s + second.measurement.samples_s


def test_blocks_pair_only_where_every_process_took_turns():
    """Where one process had no memory for both at once, its rounds are no rounds of the other's."""
    turns = timed("a", 1e-3, together=("a", "b"), order_seed=7)
    merged = merge_processes([turns, turns]).measurement
    assert (merged.together, merged.order_seed) == (("a", "b"), 7)
    merged = merge_processes([turns, timed("a", 1e-3)]).measurement
    assert (merged.together, merged.order_seed) == ((), None)


def request(backends, add_plugins=True):
    head = "" if backends is None else f"backends: [{backends}]\n"
    return runner.Request(parse_suite(head + SUITE, "made.yaml"), "cpu", None, None, add_plugins=add_plugins)


@pytest.mark.parametrize(
    ("backends", "add_plugins", "chosen"),
    [
        ("naive", True, ("naive", "mine")),
        ("naive", False, ("naive",)),
        ("mine, naive", True, ("mine", "naive")),
        ("flex", True, ("flex", "mine")),
        (None, True, ("naive", "mine")),
        (None, False, ("naive",)),
    ],
)
def test_the_backends_of_a_run(backends, add_plugins, chosen):
    here = {"naive": None, "flex": "not here", "mine": "cannot run", "installed": None}
    ready = Ready(facts={}, backends=here, unasked=("naive",), given=("mine",))
    assert choose_backends(request(backends, add_plugins), ready) == chosen


def test_what_is_left_of_a_run():
    jobs = parse_suite(SUITE, "made.yaml").jobs()
    taken = [passed("a"), passed("b"), passed("a", jobs[1].case), passed("gone", jobs[1].case)]
    assert runner._todo(jobs, ["a", "b"], taken) == [(jobs[1], ["b"])]
    assert runner._todo(jobs, ["a"], taken) == []


def test_an_unknown_backend_gets_a_suggestion():
    with pytest.raises(RunError, match='unknown backend "naiv" .did you mean "naive"..; `attnbench list'):
        choose_backends(request("naiv"), Ready(facts={}, backends={"naive": None}))


def test_a_plugin_is_stored_without_this_machines_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plain_spec(f"{tmp_path}/sub/a.py:f") == "sub/a.py:f"
    assert plain_spec("/elsewhere/a.py:f") == "a.py:f" and plain_spec("/elsewhere/a.py") == "a.py"
    assert plain_spec("module.sub:f") == "module.sub:f"
