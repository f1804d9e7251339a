"""What judges and measures is watched while plugins are in the process, and put back; settings likewise."""

import importlib
import os
import resource
import signal
import sys
import time

import pytest
import torch

from attnbench.correctness import judge
from attnbench.reference import oracle
from attnbench.timing.timers import CpuTimer
from attnbench.worker.integrity import Integrity, TamperedError


@pytest.fixture
def integrity():
    return Integrity()


def answered(*given, **named):
    return None


CODE = CpuTimer.take.__code__


@pytest.mark.parametrize(
    ("owner", "name", "label"),
    [
        (judge, "judge", "attnbench.correctness.judge.judge"),
        (oracle, "oracle", "attnbench.reference.oracle.oracle"),
        (CpuTimer, "take", "attnbench.timing.timers.CpuTimer.take"),
        (time, "perf_counter_ns", "time.perf_counter_ns"),
        (time, "monotonic", "time.monotonic"),
        (torch, "equal", "torch.equal"),
        (torch.Tensor, "clone", "torch.Tensor.clone"),
        (torch.cuda, "synchronize", "torch.cuda.synchronize"),
    ],
)
def test_what_is_replaced_is_named_and_put_back(integrity, owner, name, label):
    held = getattr(owner, name)
    setattr(owner, name, answered)
    with pytest.raises(TamperedError, match=f"^it replaced {label}, by which it is judged or measured$"):
        integrity.look("mine")
    assert getattr(owner, name) == held
    integrity.look("mine")


def test_a_function_rewritten_in_place_is_one_too(integrity):
    CpuTimer.take.__code__ = (lambda self, calls, count, calls_per_sample, before: [1e-9] * count).__code__
    with pytest.raises(TamperedError, match=r"CpuTimer\.take"):
        integrity.look("mine")
    assert CpuTimer.take.__code__ is CODE
    defaults, judge.judge.__defaults__ = judge.judge.__defaults__, (None,)
    with pytest.raises(TamperedError, match=r"^it replaced attnbench\.[a-z.]*judge, by which"):
        integrity.look("mine")
    assert judge.judge.__defaults__ == defaults


def test_settings_are_put_back_and_told_of_whoever_changed_them(integrity):
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    limit, folder = resource.getrlimit(resource.RLIMIT_CORE), os.getcwd()
    torch.set_num_threads(threads + 1)
    torch.set_default_dtype(torch.float64)
    integrity.look("mine")
    sys.setswitchinterval(1.0)
    signal.signal(signal.SIGALRM, answered)
    os.environ["OMP_NUM_THREADS"] = "77"
    os.chdir("/")
    integrity.look("other")
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, torch.float32)
    assert (sys.getswitchinterval(), os.getcwd()) == (interval, folder)
    assert signal.getsignal(signal.SIGALRM) is not answered and os.environ.get("OMP_NUM_THREADS") != "77"
    assert resource.getrlimit(resource.RLIMIT_CORE) == limit
    (told,) = integrity.told("mine")
    assert told == (
        f"it changed the number of threads from {threads} to {threads + 1}; "
        "torch's default dtype from torch.float32 to torch.float64: put back"
    )
    (told,) = integrity.told("other")
    assert told.endswith(" and 1 more: put back") and "the working folder" in told
    assert integrity.told("mine") == ()


def test_torchs_own_changes_are_none(integrity):
    importlib.import_module("torch._dynamo")
    integrity.look("mine")
    assert integrity.told("mine") == ()


def test_what_plugins_set_for_their_libraries_at_import_stays(integrity, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert integrity.accepted() == ""
    integrity.look("mine")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and integrity.told("mine") == ()
