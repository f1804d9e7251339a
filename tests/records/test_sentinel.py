"""Sentinels: what their rows say, when they are taken, what they measure, where they are kept."""

import json
from collections import Counter

import pytest
from fakes.report_runs import H200, LAPTOP, ok, write_run
from fakes.timing import FakeClock

from attnbench.records.environment import Machine
from attnbench.records.sentinels import PERIOD_S, drifts, gemm_flops_per_s, suspicions, why_suspect
from attnbench.records.store import SENTINELS, StoreError, Writer, read
from attnbench.run.process import RunError
from attnbench.run.sentinels import Sentinels
from attnbench.settings import Timing
from attnbench.timing import sentinel as sentinel_module
from attnbench.timing import timers
from attnbench.timing.sampling import Unwatched
from attnbench.timing.sentinel import Work, take_sentinel


def row(gemm=700e12, copy=2.5e12, role="periodic", **fields):
    return {"role": role, "gemm_dtype": "bf16", "gemm_flops_per_s": gemm, "copy_bytes_per_s": copy, **fields}


def test_a_machine_that_held_still_is_not_suspect():
    rows = [row(700e12), row(707e12), row(695e12)]
    gemm, copy = drifts(rows)
    assert (gemm.lowest, gemm.highest, gemm.count) == (695e12, 707e12, 3)
    assert gemm.relative == pytest.approx(12 / 700) and copy.relative == 0
    assert suspicions(rows) == ()
    assert suspicions([]) == suspicions([row()]) == ()


def test_a_drift_over_two_per_cent_is_told_with_its_numbers():
    assert suspicions([row(700e12), row(714.1e12)]) == ()  # 1.99 % of the median
    assert suspicions([row(700e12), row(690e12), row(715e12, copy=2.4e12)]) == (
        "its own GEMM rate moved by 3.6% over 3 sentinels (690 TFLOPS to 715 TFLOPS, limit 2%)",
        "its own copy rate moved by 4.0% over 3 sentinels (2400 GB/s to 2500 GB/s, limit 2%)",
    )


def test_sentinels_that_failed_and_a_clock_that_was_set_are_told():
    failed = {"role": "end", "error": "OutOfMemoryError: CUDA out of memory", "clock_step_s": -3600.0}
    rows = [row(role="start"), failed]
    assert suspicions(rows) == (
        "1 of 2 sentinels could not be measured, the first at its end: OutOfMemoryError: CUDA out of memory",
        "the system's clock was set back by 3600 s while it ran",
    )
    assert suspicions([row(clock_step_s=0.4), row(clock_step_s=7.0)]) == (
        "the system's clock was set forward by 7 s while it ran",
    )


def test_only_a_bf16_gemm_is_a_ceiling():
    assert gemm_flops_per_s([row(690e12), row(710e12), row(700e12)]) == 700e12
    assert gemm_flops_per_s([row(gemm_dtype="fp32"), {"role": "end", "error": "x"}]) is None
    assert Machine.of(H200, [row(690e12)]).gemm_flops_per_s == 690e12
    assert Machine.of(H200).gemm_flops_per_s == 750e12  # a run of before there were rows
    assert Machine.of(LAPTOP, [row(1e10, gemm_dtype="fp32")]).gemm_flops_per_s is None


class Machinery:
    """Two clocks, and a gauge that takes 3 s and tells how often it was asked."""

    def __init__(self, *outcomes):
        self.now_s, self.wall_s, self.kept, self.spent_s = 50.0, 9000.0, [], Counter()
        self.outcomes = iter(outcomes)
        self.sentinels = Sentinels(
            self.take_sentinel, self.kept.append, self.spent_s, lambda: self.now_s, lambda: self.wall_s
        )

    def passes(self, seconds):
        self.now_s += seconds
        self.wall_s += seconds

    def take_sentinel(self):
        self.passes(3.0)
        outcome = next(self.outcomes, {"gemm_flops_per_s": 1e12})
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def roles(self):
        return [kept["role"] for kept in self.kept]


def test_a_run_is_bracketed_and_looked_at_every_five_minutes():
    machine = Machinery()
    for _ in range(8):
        machine.sentinels.look()
        machine.passes(100.0)
    machine.sentinels.close()
    assert machine.roles == ["start", "periodic", "periodic", "end"]
    assert machine.spent_s == {"sentinels": 12.0}
    assert machine.kept[0] == {"role": "start", "gemm_flops_per_s": 1e12, "clock_step_s": 0.0}
    assert PERIOD_S == 300


def test_a_run_that_times_nothing_has_no_sentinel():
    machine = Machinery()
    machine.sentinels.close()
    assert machine.kept == [] and machine.spent_s == {}


def test_a_system_clock_that_is_set_back_is_seen():
    machine = Machinery()
    machine.sentinels.look()
    machine.wall_s -= 600.0
    machine.sentinels.close()
    assert [kept["clock_step_s"] for kept in machine.kept] == [0.0, -600.0]
    assert suspicions(machine.kept) == ("the system's clock was set back by 600 s while it ran",)


def test_no_worker_ends_a_run_at_its_start_and_is_a_fact_at_its_end():
    with pytest.raises(RunError):
        Machinery(RunError("no worker could start")).sentinels.look()
    machine = Machinery({}, RunError("no worker could start"))
    machine.sentinels.look()
    machine.sentinels.close()
    assert machine.kept[-1] == {"role": "end", "error": "no worker could start", "clock_step_s": 0.0}


FEW = Timing(cache="warm", min_samples=3, min_time_s=1e-6, max_time_s=0.05, warmup_s=0.0)
SMALL = Work("fp32", 16, 2**12, FEW, FEW)


def test_a_gauge_measures_what_it_says(monkeypatch):
    """On a counter that a matmul moves by 1 us and a copy by 2 us, and nothing else."""
    import torch

    counter = [0]
    mm, copy = torch.mm, torch.Tensor.copy_

    def moving(real, ns):
        def call(*arguments, **options):
            counter[0] += ns
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(torch, "mm", moving(mm, 50_000))
    monkeypatch.setattr(torch.Tensor, "copy_", moving(copy, 20_000))
    monkeypatch.setattr(timers.time, "perf_counter_ns", lambda: counter[0])
    found = take_sentinel("cpu", Unwatched(), SMALL)
    assert found["gemm_flops_per_s"] == pytest.approx(2 * 16**3 / 50e-6)
    assert found["copy_bytes_per_s"] == pytest.approx(2 * 2**12 / 20e-6)
    assert (found["gemm_dtype"], found["gemm_size"], found["copy_bytes"]) == ("fp32", 16, 4096)
    assert found["gemm"]["samples"] >= 3 and found["gemm"]["discarded"] == {} and "error" not in found
    json.dumps(found)


def test_the_cpus_own_gauge_takes_well_under_a_second():
    """By its settings, not by a stopwatch: warm-up windows and time-out of both."""
    for timing in (sentinel_module.CPU.gemm_timing, sentinel_module.CPU.copy_timing):
        assert 12 * timing.warmup_s + timing.max_time_s < 0.5 and timing.settle_s is None


def test_a_machine_that_cannot_be_gauged_is_a_fact():
    too_large = Work("fp32", 2**22, 2**12, FEW, FEW)
    watch = Unwatched()
    watch.clock = FakeClock()
    found = take_sentinel("cpu", watch, too_large)
    assert "gemm_flops_per_s" not in found
    assert found["error"].startswith("RuntimeError: ") and "\n" not in found["error"] and found["at_s"] == 1000.0


def test_sentinels_lie_beside_the_records_and_survive_a_resume(tmp_path):
    writer = Writer.create(tmp_path / "run", {}, "name: x\n")
    writer.append_sentinel(row(role="start"))
    writer.append(ok("naive", 1e-3))
    writer.close()
    with (tmp_path / "run" / SENTINELS).open("a") as file:
        file.write('{"role": "cut sh')
    run = read(tmp_path / "run")
    assert run.sentinels == (row(role="start"),)
    assert len(run.problems) == 1 and run.problems[0].startswith("sentinels.jsonl:2: not JSON: ")
    writer = Writer.resume(tmp_path / "run", {})
    assert writer.sentinels == [row(role="start")]
    writer.append_sentinel(row(role="end"))
    assert writer.sentinels == [row(role="start"), row(role="end")]
    writer.close()
    run = read(tmp_path / "run")
    assert run.sentinels == (row(role="start"), row(role="end")) and run.problems == ()


def test_a_line_that_is_no_sentinel_is_named_and_left_out(tmp_path):
    path = write_run(tmp_path / "run", [ok("naive", 1e-3)])
    (path / SENTINELS).write_text(json.dumps(row()) + "\n[1, 2]\n\n")
    run = read(path)
    assert run.sentinels == (row(),)
    assert [problem.partition(" but")[0].partition(": E")[0] for problem in run.problems] == [
        "sentinels.jsonl:2: not a JSON object",
        "sentinels.jsonl:3: not JSON",
    ]
    Writer.resume(path, {}).close()  # records are whole: it may go on


def test_a_run_without_sentinels_is_read_as_before(tmp_path):
    run = read(write_run(tmp_path / "run", [ok("naive", 1e-3)]))
    assert run.sentinels == () and run.problems == ()


def test_a_full_disk_loses_no_sentinel_of_before(tmp_path, monkeypatch):
    writer = Writer.create(tmp_path / "run", {}, "")
    writer.append_sentinel(row())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(StoreError, match="cannot write a sentinel .No space left on device."):
            writer.append_sentinel(row())
    writer.close()
    assert read(tmp_path / "run").sentinels == (row(),) == tuple(writer.sentinels)


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, ()), ({"suspect": "a fire"}, ("a fire",)), ({"suspect": True}, ("marked so in its environment",))],
)
def test_what_somebody_wrote_and_what_sentinels_say_stand_together(given, words):
    drifted = [row(700e12), row(800e12)]
    assert why_suspect(given, [row()]) == words
    assert why_suspect(given, drifted) == (*words, *suspicions(drifted)) and len(suspicions(drifted)) == 1
