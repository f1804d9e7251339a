"""Launches spread over processes: the bits, counts and hazards of one process, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

kernels = pytest.importorskip("operations_triton", reason="not run: needs Triton")

import planted_triton as planted  # noqa: E402

import attnbench  # noqa: E402
from attnbench.backend import HazardError  # noqa: E402
from attnbench.case import Case  # noqa: E402
from attnbench.contract import poisoned_memory  # noqa: E402
from attnbench.interpreters.backend import Conditions  # noqa: E402
from attnbench.interpreters.triton import launch, processes, stand_ins  # noqa: E402
from attnbench.interpreters.triton.language import PROCESSES, ProcessesError, TritonLanguage  # noqa: E402

LANGUAGE = TritonLanguage()
POISONED = {"poisoned": True, "order": 7}
POSSIBLE = processes.possible


@pytest.fixture(autouse=True)
def every_launch_pays(monkeypatch):
    """However short; two programs at a time, so that the first ones run in the test's own process."""
    monkeypatch.setattr(processes, "WORTH_S", -1.0)
    monkeypatch.setattr(processes, "possible", lambda: True)  # whatever other tests imported in this process
    monkeypatch.setattr(launch, "ELEMENTS_AT_ONCE", 2 * 32 * 32)


@pytest.fixture
def taken(monkeypatch):
    """Whether each launch that was to be spread was."""
    found, spread = [], processes.spread
    monkeypatch.setattr(processes, "spread", lambda *given: found.append(spread(*given)) or found[-1])
    return found


def done(count, call, **conditions):
    """(what the call gives, counts, lines whose masked lanes nobody gave) with the programs over so many processes."""
    interpreter = LANGUAGE.interpreter
    interpreter.forget()
    interpreter.processes, interpreter.conditions = count, Conditions(**conditions)
    try:
        with poisoned_memory(), stand_ins.gpu(set()):
            results = call()
        counts = launch.total(interpreter.counts)
        loaded = sorted(counts.read_of.values())  # the storages lie elsewhere at each call
        return results, (replace(counts, read_of={}), loaded), set(interpreter.undefined)
    finally:
        interpreter.processes, interpreter.conditions = 1, Conditions()


def attention(fault, dtype=torch.bfloat16, causal=True):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, length, 2, 32, generator=generator).to(dtype) for length in (75, 110, 110))
    return lambda: planted.launched(q, k, v, causal, 0.2, fault)


def parting():
    y = torch.full((150,), -1.0)
    kernels.parting[(10,)](torch.arange(150, dtype=torch.float32), y, 150, 16)
    return (y,)


def described():
    x, y = torch.arange(320.0).view(20, 16), torch.full((20, 16), -1.0)
    kernels.described[(2,)](x, y, 20, 16, 8, 16)
    return (y,)


def shapes():
    x, outputs = torch.arange(256.0).view(16, 16), [torch.empty(size) for size in (256, 256, 512)]
    kernels.shapes[(3, 1)](x, *outputs, 16)  # all programs store the same
    return tuple(outputs)


def renewed(call):
    """NOTE: a kernel that once was not spread is never again; each test begins with kernels that nobody compiled."""
    for kernel in (planted.attention, kernels.parting, kernels.described, kernels.shapes, kernels.counters):
        kernel.device_caches.clear()
    return call


CALLS = {
    "bf16": (attention(""), True), "fp16": (attention("", torch.float16, False), True),
    "undefined": (attention("undefined"), True), "unwritten": (attention("unwritten"), True),
    "parting": (parting, True), "descriptors": (described, True), "stored by all": (shapes, False),
}  # fmt: skip


@pytest.mark.parametrize(("count", "conditions"), [(2, {}), (3, POISONED)], ids=["two", "three, poisoned"])
@pytest.mark.parametrize("name", CALLS)
def test_bits_counts_and_lines_are_those_of_one_process(name, count, conditions, taken):
    call, apart = CALLS[name]
    alone, counts, lines = done(1, renewed(call), **conditions)
    assert not taken
    together, others, other_lines = done(count, renewed(call), **conditions)
    assert taken == [apart]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    assert (others, other_lines) == (counts, lines)


@pytest.mark.parametrize(("fault", "order"), [("outside", None), ("outside_scalar", 5), ("race", 5)])
def test_a_hazard_is_told_in_the_words_of_one_process(fault, order, taken):
    call, words = attention(fault), set()
    for count in (1, 2, 3):
        with pytest.raises(HazardError) as raised:
            done(count, renewed(call), order=order)
        # How many lie in the next tensor depends on where that is this time.
        words.add(re.sub(r"of \d+ of", "of some of", str(raised.value)))
    assert len(words) == 1 and "planted_triton.py:" in words.pop()
    assert not any(taken)


def reading():
    """A program loads what another one stores, in another process."""
    x = torch.arange(64.0)
    kernels.neighbours[(4,)](x, 16)
    return (x,)


def test_a_race_between_processes_is_found(taken, monkeypatch):
    monkeypatch.setattr(launch, "ELEMENTS_AT_ONCE", 1)
    kernels.neighbours.device_caches.clear()
    with pytest.raises(HazardError) as alone:
        done(1, reading)
    kernels.neighbours.device_caches.clear()
    with pytest.raises(HazardError) as together:
        done(4, reading)
    assert str(together.value) == str(alone.value) and "a race: program" in str(alone.value)
    assert taken == [False]


def test_what_is_shared_through_atomics_stays_in_one_process(taken):
    count, lock, top, tickets = (torch.zeros(size, dtype=torch.int32) for size in (1, 1, 1, 7))
    done(3, lambda: kernels.counters[(7,)](count, tickets, torch.zeros(2), top, lock, 8))
    assert count.item() == 7 and not taken


def children():
    """Process numbers of this process's children, those that ended and nobody waited for too."""
    return {pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()}


def test_a_process_that_dies_costs_the_launch_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(processes, "result", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    others = children()
    with pytest.raises(processes.ProcessDied, match=r"^a process that ran \d programs .* ended by SIGKILL"):
        done(2, renewed(attention("")))
    assert children() <= others


def test_a_process_that_dies_costs_its_record_and_no_other(monkeypatch):
    case = Case.make(batch=1, num_heads=2, head_dim=32, seqlen_q=75, seqlen_k=75, dtype="bf16")
    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setattr(LANGUAGE.interpreter, "processes", 1)  # which is put back afterwards
    renewed(planted.right)
    with monkeypatch.context() as patched:
        patched.setattr(processes, "result", lambda *given: os._exit(3))
        with pytest.raises(AssertionError, match=r"ProcessDied: a process that ran \d programs of a launch ended"):
            attnbench.check(planted.right, case, interpret=True)
    (record,) = attnbench.check(planted.right, case, interpret=True)
    assert record.status == "ok"


def test_a_launch_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(launch, "LONGEST_LAUNCH_S", 0.0)
    with pytest.raises(launch.NotInterpreted, match=r"attention: a launch of 12 programs would take about \d+ minutes"):
        done(2, renewed(attention("")))


def test_a_short_launch_is_not_spread(taken, monkeypatch):
    monkeypatch.setattr(processes, "WORTH_S", 1000.0)
    done(2, renewed(attention("")))
    assert not taken


def test_a_process_with_jaxs_threads_is_not_forked(monkeypatch):
    monkeypatch.delitem(processes.sys.modules, "jax", raising=False)
    assert POSSIBLE()
    monkeypatch.setitem(processes.sys.modules, "jax", multiprocessing)
    assert not POSSIBLE()


def test_the_number_of_processes_is_asked_for_by_name(monkeypatch):
    monkeypatch.setenv(PROCESSES, "3")
    assert TritonLanguage().processes == 3
    for text in ("0", "-1", "many"):
        monkeypatch.setenv(PROCESSES, text)
        with pytest.raises(ProcessesError, match=f"{PROCESSES}={text}: give a number of processes from 1 on"):
            TritonLanguage()
    monkeypatch.delenv(PROCESSES)
    assert TritonLanguage().processes is None
