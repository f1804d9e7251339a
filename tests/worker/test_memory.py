"""Peak memory on the CPU: exact where torch gave it, not missed where another did, and never inside timed calls."""

import mmap

import numpy
import torch
from test_trial import CASE, FP8, Backend, problem

from attnbench.backend import Outputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.records.measurement import ALLOCATOR, PROCESS
from attnbench.reference.inputs import input_bytes
from attnbench.worker import memory
from attnbench.worker.memory import Peak, cpu_peak
from attnbench.worker.trial import run_trial

MIB = 2**20


def outputs(size=1):
    return Outputs(torch.zeros(size, dtype=torch.uint8))


def test_torchs_allocations_are_counted_to_the_byte():
    def call():
        first = torch.empty(5_000_001, dtype=torch.uint8)
        second = torch.empty(3_000_000, dtype=torch.uint8)
        del first
        third = torch.empty(1_000_000, dtype=torch.uint8)
        assert len(second) + len(third) < 5_000_001
        return outputs(7)

    assert cpu_peak(call) == Peak(8_000_001, ALLOCATOR)


def test_allocations_inside_an_operator_count():
    """Of a fused operator the caller sees the results only; its buffers are the allocator's, too."""
    q = torch.zeros(1, 4, 1024, 64, dtype=torch.bfloat16)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    flash(q, q, q, 0.0, True)  # what libraries keep from their first call on is no call's
    found = cpu_peak(lambda: Outputs(*flash(q, q, q, 0.0, True)))
    assert found.by == ALLOCATOR and found.bytes > q.numel() * 2 + 4 * 1024 * 4 + 100_000


def foreign(size: int) -> numpy.ndarray:
    """Memory that no allocator gave, all of it written.

    NOTE: not numpy.ones: where malloc serves this thread from another arena than the main one, it keeps what was freed
    and gives it again, which is no rise; so it went now and then in a process of many tests.
    """
    taken = numpy.frombuffer(mmap.mmap(-1, size), dtype=numpy.uint8)
    taken[:] = 1
    return taken


def test_memory_that_torchs_allocator_did_not_give_is_the_processs():
    def call():
        assert len(foreign(24 * MIB)) == 24 * MIB
        return outputs()

    found = cpu_peak(call)
    assert found.by == PROCESS and 23 * MIB <= found.bytes < 30 * MIB  # the system counts to some pages


def test_without_the_processs_figure_nothing_is_claimed_of_what_was_not_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert cpu_peak(lambda: outputs(MIB)) == Peak(MIB, ALLOCATOR)
    assert cpu_peak(lambda: Outputs(torch.from_numpy(numpy.ones(MIB)))) is None


def timed(backend, case=CASE):
    record = run_trial(problem(case), backend, timed=True)
    assert record.status == "ok", record.reason
    return record.measurement


def test_standard_attention_holds_its_scores_and_a_tiled_backend_does_not():
    for seqlen in (256, 512):
        case = Case.make(batch=1, num_heads=2, head_dim=16, seqlen=seqlen, dtype="bf16", causal=True)
        scores_bytes = 4 * case.num_heads * seqlen**2
        naive, flash = (timed(builtin()[name], case) for name in ("naive", "cpu_flash"))
        assert naive.peak_by == flash.peak_by == ALLOCATOR
        assert 2 * scores_bytes < naive.peak_bytes < 5 * scores_bytes
        assert input_bytes(case) * 4 / 3 < flash.peak_bytes < naive.peak_bytes / 2  # the output is as large as q


def test_an_emulated_pipeline_is_counted_too():
    measured = timed(builtin()["fp8_emulated"], FP8)
    assert measured.peak_by == ALLOCATOR and measured.peak_bytes > input_bytes(FP8)


def test_a_backend_with_memory_of_its_own_is_not_said_to_need_nothing():
    def change(call, inputs):
        foreign(24 * MIB)
        return call()

    measured = timed(Backend(change))
    assert measured.peak_by == PROCESS and measured.peak_bytes > 23 * MIB + input_bytes(CASE)


def test_one_call_is_metered_and_it_is_none_of_the_timed_ones():
    metered = []

    def change(call, inputs):
        metered.append(torch.autograd._profiler_enabled())
        return call()

    measured = timed(Backend(change))
    assert metered.count(True) == 1
    taken = measured.blocks[0].sample_count * measured.calls_per_sample
    assert len(metered) - 1 - metered.index(True) > taken


def test_a_call_that_profiles_itself_is_counted_by_the_process():
    """Two profilers cannot run on one thread; a right backend is not to fail for ours."""

    def change(call, inputs):
        with torch.autograd.profiler_legacy.profile():
            return call()

    measured = timed(Backend(change))
    assert measured.peak_by == PROCESS and measured.peak_bytes >= input_bytes(CASE)
    assert not torch.autograd._profiler_enabled() and timed(Backend()).peak_by == ALLOCATOR


def test_a_call_that_raises_leaves_no_meter_running():
    calls = []

    def change(call, inputs):
        calls.append(torch.autograd._profiler_enabled())
        if any(calls):
            raise RuntimeError("not from the meter on")
        return call()

    record = run_trial(problem(), Backend(change), timed=True)
    assert (record.status, record.kind) == ("error", "exception") and "not from the meter on" in record.reason
    assert not torch.autograd._profiler_enabled() and timed(Backend()).peak_bytes > 0


def test_of_a_backend_that_keeps_its_memory_nothing_is_told():
    class Keeps(Backend):
        keeps_memory = True

    measured = timed(Keeps())
    assert measured.peak_bytes is None
    assert measured.blocks
