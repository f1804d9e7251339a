"""What goes through the pipe comes out the same at the other end, and nothing else comes out."""

import json

import pytest

from attnbench.case import Case
from attnbench.messages import (
    BackendHeld,
    BlockTaken,
    HoldBackend,
    JobDone,
    MessageError,
    PhaseBegun,
    Poisoned,
    Ready,
    RecordMade,
    Refused,
    ReleaseBackend,
    RunCase,
    SentinelTaken,
    TakeBlock,
    TakeSentinel,
    event_of,
    job_of,
    to_line,
)  # fmt: skip
from attnbench.settings import Checks, Factors, Timing

CASE = Case.make(batch=1, seqlen=64, num_heads=2, head_dim=16, dtype="e4m3", softmax_scale=0.3)
POSED = {"case": CASE, "time": True, "timing": Timing(min_samples=3), "checks": Checks(factors=Factors(rmse=2.0))}
JOBS = (
    RunCase(**POSED, backends=("naive", "hopper[pingpong]"), process=2, bits="/a folder"),
    RunCase(**POSED, backends=()),
    HoldBackend(**POSED, backend="naive", process=1, arm="base", checkout="/x"),
    TakeBlock(round=3, growth=4, call_s=1e-5),
    ReleaseBackend(together=("base", "head"), order_seed=7, timed=False),
    TakeSentinel(),
)
EVENTS = (
    Ready(facts={"torch": {"version": "2"}}, backends={"a": None, "b": "why"}, unasked=("a",), given=()),
    Refused("no torch"), PhaseBegun("a", "time"), RecordMade('{"schema": 1}'), BackendHeld(None, ("a.py",)),
    BackendHeld(1e-3), BlockTaken(True, 0.5), SentinelTaken({"gemm_flops_per_s": 1e12}), JobDone({"time": 1.5}),
    Poisoned("sticky"),
)  # fmt: skip


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_comes_out_as_it_went_in(job):
    line = to_line(job)
    assert "\n" not in line and job_of(line) == job
    with pytest.raises(MessageError):
        event_of(line)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_out_as_it_went_in(event):
    assert event_of(to_line(event)) == event and event_of(to_line(event).encode()) == event
    with pytest.raises(MessageError):
        job_of(to_line(event))


@pytest.mark.parametrize(
    "change",
    [{"type": "Nobody"}, {"further": 1}, {"case": {"batch": 0}}, {"timing": {"timer": "sundial"}}, {"backends": 3}],
    ids=str,
)
def test_what_is_no_message_is_refused(change):
    row = json.loads(to_line(JOBS[0])) | change
    with pytest.raises(MessageError):
        job_of(json.dumps(row))


@pytest.mark.parametrize("missing", ["type", "case", "time", "backends"])
def test_a_message_is_whole(missing):
    row = json.loads(to_line(JOBS[0]))
    del row[missing]
    with pytest.raises(MessageError):
        job_of(json.dumps(row))
