"""Plugins in processes of their own: the verdicts are those of plugins that are trusted, and no deed costs the run."""

import os
import re
import time
from pathlib import Path

import pytest
from plugged import BACKENDS, Right

from attnbench.backend import RemoteError
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import PluginError
from attnbench.reference.inputs import make_inputs
from attnbench.settings import Checks, Timing
from attnbench.timing.stopping import AHEAD, HAND_OVER
from attnbench.untrusted import traits
from attnbench.untrusted.confine import missing
from attnbench.untrusted.handover import HandOverTimer, Taken
from attnbench.untrusted.session import Session, UntrustedError
from attnbench.worker.arms import time_together
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import check_trial, run_trial

PLUGIN = str(Path(__file__).parent / "plugged.py")
CASE = Case.make(batch=1, seqlen=48, num_heads=4, num_heads_kv=2, head_dim=16, causal=True, dtype="fp32")
CHECKS = Checks(repeats=1, probes=("v_ones", "misaligned", "guarded", "broadcast"))
WARM = Timing(min_samples=10, min_time_s=0.001, max_time_s=0.05, warmup_s=0.001, cache="warm")


@pytest.fixture(scope="module")
def session():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMETHING_ELSE", "an address")
        session = Session([PLUGIN], "cpu", 0)
        yield session
        session.end()


@pytest.fixture
def judged(session):
    """The record of a backend of the plugin by its name."""

    def judged(name, case=CASE, timing=WARM, timed=False, cache_bytes=0, call_s=20.0):
        session.wait(call_s, 60.0, lambda: None)
        return run_trial(Problem(case, "cpu", CHECKS, timing, cache_bytes, Phases()), session.given[name], timed)

    return judged


def test_a_right_plugin_has_the_verdict_of_a_trusted_one(judged):
    for case in (CASE, Case.make(batch=2, seqlen_q=5, seqlen_k=33, num_heads=2, head_dim=32, dtype="bf16")):
        trusted = run_trial(Problem(case, "cpu", CHECKS, WARM, 0, Phases(), seed=7), Right(), False)
        found = judged("right", case)
        assert (found.status, found.reason, found.warnings) == (trusted.status, "", trusted.warnings) == ("ok", "", ())
        values = {check.rule: check.value for check in found.accuracy.checks}
        assert values == {check.rule: check.value for check in trusted.accuracy.checks}


@pytest.mark.parametrize("name", ["right", "copying"])
def test_it_is_timed_by_hand_overs(judged, name):
    record = judged(name, timed=True)
    assert record.status == "ok", record.reason
    measurement = record.measurement
    assert measurement.timer == "cpu"
    assert 1e-6 < measurement.handover_s < 1
    assert measurement.peak_bytes is None
    assert '"handover_s"' in record.to_json()
    assert (measurement.prep_call is None) == (name == "right")


def test_several_calls_to_a_hand_over_are_on_other_input_sets_each(judged):
    cold = Timing(min_samples=10, min_time_s=0.001, max_time_s=0.3, warmup_s=0.001)
    measurement = judged("right", timing=cold, timed=True, cache_bytes=1 << 16).measurement
    assert measurement.input_sets > 2
    assert 1 <= measurement.calls_per_sample <= (measurement.input_sets + 1) // 2


def test_it_takes_turns_with_trusted_backends(session):
    problem = Problem(CASE, "cpu", CHECKS, WARM, 0, Phases())
    checked = [check_trial(problem, backend) for backend in (session.given["right"], builtin()["naive"])]
    right, naive = sorted(time_together(problem, checked), key=lambda record: record.backend == "naive")
    assert (right.status, naive.status) == ("ok", "ok"), (right.reason, naive.reason)
    assert right.measurement.handover_s > 0
    assert naive.measurement.handover_s is None
    assert right.measurement.together == naive.measurement.together == ("right", "naive")


def test_a_sequence_keeps_its_state(judged):
    case = Case.make(batch=1, seqlen=20, num_heads=2, head_dim=16, causal=True, dtype="fp32", calls=4)
    record = judged("sequence", case)
    assert record.status == "ok", record.reason
    assert any(check.rule.startswith("step 3") for check in record.accuracy.checks)


def test_a_candidate_holds_neither_judge_nor_oracle_nor_store_nor_environment(judged):
    record = judged("telling")
    assert record.status == "ok", record.reason
    modules, given, folder = record.warnings
    assert modules == "modules: []"
    assert given == "given: None"
    assert "attnbench-candidate-" in folder
    assert record.kernel == {"name": "told", "registers": 3}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("fail", "exception", r"RuntimeError: no such tile \(plugged.py:\d+ fail"),
        ("leave", "exception", r"SystemExit: 3 \(plugged.py:\d+ leave"),
        ("write_inputs", "contract", "it wrote its inputs: k changed during the call"),
        ("lazy", "contract", "out is Lazy, not a plain torch.Tensor"),
        ("same_memory", "contract", "out lies in the memory of q"),
        ("eat_memory", "oom", "can't allocate memory"),
        ("print_endlessly", "exception", r"OSError: \[Errno 27\] File too large"),
        ("segfault", "crash", "the candidate process was killed by SIGSEGV; its last output: about to fall"),
        ("talk", "contract", "it wrote b'record: ok' where a message belongs"),
        ("hang", "timeout", r"a call did not return within 0.2 s; it was ended .*; it was at plugged.py:\d+ hang"),
    ],
)
def test_what_a_plugin_does_costs_its_own_record(judged, name, kind, words):
    record = judged(name, call_s=0.2 if name == "hang" else 20.0)
    assert (record.status, record.kind) == ("error", kind), record.reason
    assert re.search(words, record.reason)
    assert judged("right").status == "ok"  # by a fresh candidate where that one was lost


def test_a_fork_does_not_speak_for_the_candidate(judged):
    record = judged("fork", timed=True)
    assert record.status == "ok", record.reason


def test_an_output_that_comes_later_is_wrong(judged):
    assert judged("work_later").status == "incorrect"


def test_an_answer_that_was_kept_is_found_while_it_is_timed(judged):
    record = judged("kept", timed=True)
    assert record.status == "incorrect"
    assert "while it was timed" in record.reason


def test_a_call_that_is_skipped_now_and_then_is_found(judged):
    cold = Timing(min_samples=20, min_time_s=0.3, max_time_s=1, warmup_s=0.001)
    record = judged("skipping", timing=cold, timed=True, cache_bytes=1 << 18)
    assert record.status == "incorrect", record
    assert "while it was timed" in record.reason


def test_the_hand_over_is_told_where_it_is_a_large_part_of_a_sample(judged):
    record = judged("right", Case.make(batch=1, seqlen=1, num_heads=1, head_dim=8, dtype="fp32"), timed=True)
    assert HAND_OVER in record.measurement.flags
    assert any("hand-over" in text for text in record.warnings)


def test_inputs_stay_where_they_are_in_the_candidate(session):
    """What the judge changes in place, a call sees that was prepared before."""
    backend = session.given["right"]
    inputs = backend.input_set(make_inputs(CASE))
    call = backend.prepare(CASE, inputs)
    before = call().out
    inputs.v.neg_()
    assert call().out.equal(-before)


def test_a_candidate_is_stopped_between_calls(session):
    """A thread that goes on when a call has returned gets no further until something is asked again."""
    backend = session.given["ticking"]
    backend.prepare(CASE, make_inputs(CASE))()
    time.sleep(0.6)
    (longest_s,) = backend.warnings(CASE)
    assert float(longest_s) > 0.5


def test_work_ahead_of_go_is_counted():
    timer = HandOverTimer(None, None, CASE, 8, seed=1)
    empty, honest, ahead = Taken(), Taken(), Taken()
    empty.add((100e-6, 10e-6))
    honest.add((104e-6, 1000e-6))
    ahead.add((900e-6, 200e-6))
    assert (timer._look_at(honest, empty), timer.flags) == (0, ())
    assert timer.handover_s == 10e-6
    assert timer._look_at(ahead, empty) == pytest.approx(800e-6)
    assert timer.flags == (AHEAD,)


protected = pytest.mark.skipif(
    any(text.startswith(("Landlock", "seccomp")) for text in missing()),
    reason=f"not run: without {'; '.join(missing())}",
)


@protected
@pytest.mark.parametrize("name", ["write_elsewhere", "reach_out", "signal_judge"])
def test_the_kernel_refuses_what_reaches_out(judged, name):
    record = judged(name)
    assert (record.status, record.kind) == ("error", "exception")
    assert record.reason.startswith("PermissionError")
    assert not Path("written_by_a_candidate").exists()


def test_the_scratch_folder_may_be_written_and_goes_with_the_candidate(judged):
    assert judged("write_scratch").status == "ok"


def test_what_is_missing_is_said(monkeypatch):
    import builtins

    found = builtins.__import__

    def without(name, *arguments, **named):
        if name in ("landlockpy", "pyseccomp"):
            raise ImportError(name)
        return found(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == [
        "Landlock: pip install 'attnbench[untrusted]'", "seccomp: pip install 'attnbench[untrusted]'",
    ]  # fmt: skip


def test_what_a_backend_says_of_itself_is_looked_at():
    said = traits.declared(BACKENDS[0])
    assert traits.checked(said)["name"] == "right"
    for wrong in ({"name": "a\nb"}, {"deterministic": 3}, {"devices": "cpu"}, {"stateful": "yes"}, {"version": None}):
        with pytest.raises(RemoteError):
            traits.checked({**said, **wrong})
    with pytest.raises(RemoteError, match="without 'accumulator'"):
        traits.checked({name: value for name, value in said.items() if name != "accumulator"})


def test_mistakes_are_one_line(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    with pytest.raises(PluginError, match=r"does not import: ModuleNotFoundError.*\(broken.py:1\)"):
        Session([str(broken)], "cpu", 0)
    with pytest.raises(UntrustedError, match="--device cpu"):
        Session([], "cuda:0", 0)
