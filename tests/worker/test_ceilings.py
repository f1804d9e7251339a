"""Rates that no machine reaches are no measurement; honest kernels are far from them."""

import time

import pytest
import torch
from test_trial import CASE, QUICK, Backend, problem

from attnbench.case import Case, compulsory_bytes, forward_flops
from attnbench.worker import ceilings
from attnbench.worker.ceilings import GEMM_MARGIN, IMPOSSIBLE_RATE, IMPOSSIBLE_READ, READ_MARGIN, TIMES_AGAIN, Ceilings
from attnbench.worker.trial import run_trial

LARGE = Case.make(batch=1, num_heads=2, head_dim=64, seqlen=1024)


@pytest.fixture
def rates(monkeypatch):
    """GEMM and read rates as they are told, one after the other; the last one stays."""
    told = {"gemm": [1e9], "read": [1e9]}
    taken = {"gemm": 0, "read": 0}

    def rate(name):
        taken[name] += 1
        return told[name].pop(0) if len(told[name]) > 1 else told[name][0]

    monkeypatch.setattr(ceilings, "_gemm_rate", lambda name: rate("gemm"))
    monkeypatch.setattr(ceilings, "_read_rate", lambda device: rate("read"))
    return told, taken


def test_a_rate_beyond_the_margin_is_broken_and_one_below_is_not(rates):
    limit_s = forward_flops(LARGE) / (GEMM_MARGIN * 1e9)
    assert Ceilings("cpu").beyond(LARGE, limit_s * 1.01, 0) == ()
    (check,) = Ceilings("cpu").beyond(LARGE, limit_s / 2, 0)
    assert (check.rule, check.passed, check.limit) == (IMPOSSIBLE_RATE, False, pytest.approx(GEMM_MARGIN * 1e9))
    assert check.value == pytest.approx(2 * check.limit)


def test_a_machine_that_was_slow_at_first_is_measured_again(rates):
    told, taken = rates
    told["gemm"][:] = [1e9, 1e9, 1e9, 1e9, 5e9]  # fp32 and bf16, twice before the machine is itself again
    seconds = forward_flops(LARGE) / 4e9
    asked = Ceilings("cpu")
    assert asked.beyond(LARGE, seconds, 0) == () and taken["gemm"] == 6
    assert asked.beyond(LARGE, seconds, 0) == () and taken["gemm"] == 6, "the best of all times stands"
    told["gemm"][:] = [1e9]
    assert Ceilings("cpu").beyond(LARGE, seconds, 0)
    assert taken["gemm"] == 6 + 2 + 2 * TIMES_AGAIN


def test_bytes_count_only_where_no_cache_can_have_served_them(rates):
    told, _ = rates
    told["gemm"][:] = [1e15]
    seconds = compulsory_bytes(LARGE) / (3 * READ_MARGIN * 1e9)
    asked = Ceilings("cpu", cache_bytes=2**20)
    assert asked.beyond(LARGE, seconds, 2**21) == ()
    (check,) = asked.beyond(LARGE, seconds, 2**21 + 1)
    assert check.rule == IMPOSSIBLE_READ and check.value == pytest.approx(3 * check.limit)
    assert Ceilings("cpu").beyond(LARGE, seconds, 2**40) == (), "a cache of unknown size"


def test_a_rate_above_every_gemm_is_told(rates):
    seconds = forward_flops(LARGE) / 1.1e9
    assert Ceilings("cpu").beyond(LARGE, seconds, 0) == ()
    (warning,) = Ceilings("cpu").warning(LARGE, seconds)
    assert warning == "1.1 GFLOP/s is more than any GEMM did here (1)"
    assert Ceilings("cpu").warning(LARGE, forward_flops(LARGE) / 0.9e9) == ()


def test_a_patched_clock_makes_no_record(monkeypatch):
    true, start = time.perf_counter_ns, time.perf_counter_ns()
    record = run_trial(problem(LARGE), Backend(), timed=True)
    assert record.status == "ok", record.reason

    def slow(call, inputs):
        monkeypatch.setattr(time, "perf_counter_ns", lambda: start + (true() - start) // 1_000_000)
        return call()

    record = run_trial(problem(LARGE, QUICK.model_copy(update={"max_time_s": 0.2})), Backend(slow), timed=True)
    monkeypatch.undo()
    assert record.status != "ok" and record.measurement is None
    if record.status == "incorrect":  # else its samples are 0, which is no measurement either
        assert record.reason.startswith("faster than this machine can be: impossible rate") and "clock" in record.reason
        assert record.accuracy.values["samples"] >= 1 and record.accuracy.values["median_s"] > 0


def test_honest_kernels_are_far_from_the_real_limits():
    asked = Ceilings("cpu")
    record = run_trial(problem(LARGE), Backend(), timed=True)
    (limit, read) = asked._flops_limit("bf16"), asked._read_limit()
    assert limit > 1e8 and read > 1e7
    assert record.status == "ok" and not [w for w in record.warnings if "any GEMM" in w]
    assert run_trial(problem(CASE), Backend(), timed=True).status == "ok"


def test_a_card_has_its_dense_peak_at_its_highest_clock(monkeypatch):
    class Card:
        major, minor, multi_processor_count, clock_rate = 9, 0, 132, 1_980_000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    monkeypatch.setattr(ceilings, "_read_rate", lambda device: 4e12)
    asked = Ceilings("cuda:0")
    peak = 132 * 1.98e9 * 4096
    assert asked.beyond(LARGE, forward_flops(LARGE) / peak * 1.001, 0) == ()
    assert asked.beyond(LARGE, forward_flops(LARGE) / peak / 1.001, 0)[0].limit == pytest.approx(peak)
    assert asked.warning(LARGE, forward_flops(LARGE) / peak) == ()
    Card.minor = 7
    assert Ceilings("cuda:0").beyond(LARGE, 1e-12, 0) == ()
