"""One trial in this process: phases, memory, prepared, failures by kind, inputs that stay whole between backends."""

import bdb
import dataclasses
from functools import partial

import pytest
import torch

from attnbench.backend import Base, ContractError, Outputs
from attnbench.backends import builtin
from attnbench.breakpoints import NO_TERMINAL, breakpointhook
from attnbench.case import Case
from attnbench.correctness.probes import RECHECK_SET
from attnbench.failures import REASON_CHARACTERS
from attnbench.reference.inputs import checksums, copy_inputs, in_place_of, input_tensors, make_inputs
from attnbench.settings import Checks, Timing
from attnbench.timing.stopping import GAVE_UP, IN_WORDS
from attnbench.worker import phases as phases_module
from attnbench.worker import prepared
from attnbench.worker import problem as problem_module
from attnbench.worker.guard import describe, failure_kind
from attnbench.worker.phases import Phases
from attnbench.worker.prepared import KEPT_ANSWER
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

CASE = Case.make(batch=1, num_heads=2, num_heads_kv=1, head_dim=16, seqlen=24, dtype="fp16", causal=True)
FP8 = dataclasses.replace(CASE, dtype="e4m3")
QUICK = Timing(min_samples=3, min_time_s=1e-4, max_time_s=0.02, warmup_s=1e-3, cache="warm")


def problem(case=CASE, timing=QUICK, checks=Checks(), cache_bytes=0, phases=None):
    return Problem(case, "cpu", checks, timing, cache_bytes, phases or Phases())


class Backend(Base):
    """`naive` with something changed."""

    name, deterministic = "mine", True

    def __init__(self, change=None, **traits):
        self.change = change
        self.__dict__.update(traits)

    def version(self):
        return "1"

    def unavailable(self):
        return None

    def unsupported(self, case):
        return None

    def prepare(self, case, inputs):
        call = builtin()["naive"].prepare(case, inputs)
        return call if self.change is None else lambda: self.change(call, inputs)


def test_a_trial_without_timing_and_one_with():
    record = run_trial(problem(), Backend(), timed=False)
    assert (record.status, record.measurement, record.accuracy.recheck) == ("ok", None, "")
    assert "repeats that differ bitwise" in [check.rule for check in record.accuracy.checks]
    record = run_trial(problem(), Backend(), timed=True)
    assert record.status == "ok" and record.measurement.input_sets == 1
    assert record.accuracy.recheck == "a buffer of every batch; fresh inputs"
    assert record.measurement.prep_s > 0 and record.measurement.compile_s >= 0


def test_every_backend_of_the_cpu_passes_its_own_checks():
    for case, name in ((CASE, "naive"), (CASE, "cpu_flash"), (FP8, "fp8_emulated")):
        record = run_trial(problem(case), builtin()[name], timed=True)
        assert (record.backend, record.status) == (name, "ok"), record.reason


def test_inputs_and_oracle_are_made_once_for_all_backends(monkeypatch):
    made = []
    real = problem_module.make_inputs
    monkeypatch.setattr(
        problem_module, "make_inputs", lambda *arguments: made.append(arguments[2:]) or real(*arguments)
    )
    shared = problem()
    for _ in range(3):
        assert run_trial(shared, Backend(), timed=True).status == "ok"
    assert made == [(), (RECHECK_SET,)]


def test_a_backend_that_writes_its_inputs_does_not_spoil_the_next_ones():
    def writes(call, inputs):
        outputs = call()
        inputs.k.zero_()
        return outputs

    shared = problem()
    before = [tensor.clone() for tensor in input_tensors(shared.reference.inputs)]
    assert run_trial(shared, Backend(writes), timed=False).kind == "contract"
    assert all(torch.equal(a, b) for a, b in zip(before, input_tensors(shared.reference.inputs)))
    assert run_trial(shared, Backend(), timed=True).status == "ok"


def test_a_backend_that_fails_and_ruins_its_inputs_does_not_spoil_the_next_ones():
    def ruins(call, inputs):
        inputs.q.resize_(0)
        raise RuntimeError("sorry")

    shared = problem()
    record = run_trial(shared, Backend(ruins), timed=False)
    assert (record.kind, record.reason.split(" (")[0]) == ("exception", "RuntimeError: sorry")
    assert run_trial(shared, Backend(), timed=True).status == "ok"


def test_a_case_that_cannot_fit_is_unsupported_before_anything_is_allocated():
    huge = Case.make(batch=64, num_heads=128, head_dim=128, seqlen=2**20)
    record = run_trial(problem(huge), Backend(), timed=True)
    assert record.status == "unsupported"
    assert record.reason.startswith("needs about 12288.0 GiB, and ")
    assert record.reason.endswith("of the cpu memory may be used")
    greedy = Backend(extra_bytes=lambda case: 2**50)
    assert run_trial(problem(), greedy, timed=True).status == "unsupported"


def test_a_backend_for_other_devices_is_unsupported():
    record = run_trial(problem(), Backend(devices=("cuda",)), timed=True)
    assert (record.status, record.reason) == ("unsupported", "it runs on cuda only, not on cpu")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContractError("x"), "contract"),
        (MemoryError(), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "oom"),
        (ValueError("x"), "exception"),
        (SystemExit(3), "exception"),
    ],
)
def test_failures_by_kind(error, kind):
    assert failure_kind(error) == kind

    def fails(call, inputs):
        raise error

    record = run_trial(problem(), Backend(fails), timed=False)
    assert (record.status, record.kind) == ("error", kind) and record.reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda good: good.out, "the call returned Tensor, not attnbench.Outputs"),
        (lambda good: Outputs(None), "out is NoneType, not a tensor"),
        (lambda good: Outputs(good.out[:, 1:]), "out has shape (1, 23, 2, 16), not (1, 24, 2, 16)"),
        (lambda good: Outputs(good.out.float()), "out has dtype torch.float32, not torch.float16"),
        (lambda good: Outputs(good.out.to("meta")), "out is on meta, not on cpu"),
        (lambda good: Outputs(good.out, good.lse.half()), "lse has dtype torch.float16, not torch.float32"),
        (lambda good: Outputs(good.out, good.lse.transpose(1, 2)), "lse has shape (1, 24, 2), not (1, 2, 24)"),
    ],
)
def test_outputs_that_break_the_contract(spoil, reason):
    record = run_trial(problem(), Backend(lambda call, inputs: spoil(call())), timed=False)
    assert (record.status, record.kind, record.reason) == ("error", "contract", reason)


def test_an_interruption_is_not_swallowed():
    def interrupted(call, inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(problem(), Backend(interrupted), timed=False)


def test_a_reason_tells_the_error_and_the_place_without_this_machines_paths():
    def fails(call, inputs):
        return torch.zeros(2, 3) @ torch.zeros(2, 3)

    reason = run_trial(problem(), Backend(fails), timed=False).reason
    assert reason.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "(test_trial.py:" in reason and " fails" in reason and "/" not in reason.split("(test_trial")[1]
    long = describe(ValueError("x" * 10**5))
    assert len(long) <= REASON_CHARACTERS


def test_a_breakpoint_says_what_to_do_instead(monkeypatch):
    monkeypatch.setattr("sys.breakpointhook", breakpointhook)

    def stops(call, inputs):
        breakpoint()
        return call()

    record = run_trial(problem(), Backend(stops), timed=False)
    assert (record.kind, record.reason) == ("exception", f"breakpoint(): {NO_TERMINAL}")
    assert "attnbench repro" in NO_TERMINAL


def test_a_debugger_without_a_terminal_says_so_too():
    def stops(call, inputs):
        raise bdb.BdbQuit

    assert f"bdb.BdbQuit: {NO_TERMINAL} (" in run_trial(problem(), Backend(stops), timed=False).reason


def by_shape():
    """A kernel that keeps its answers by shape."""
    kept = {}

    def change(call, inputs):
        outputs = kept.setdefault(inputs.q.shape, call())
        return Outputs(outputs.out.clone(), outputs.lse.clone())

    return Backend(change)


@pytest.mark.parametrize("case", [CASE, FP8], ids=["fp16", "e4m3"])
@pytest.mark.parametrize("timed", [False, True])
def test_an_answer_kept_by_shape_is_wrong_whether_it_is_timed_or_not(timed, case):
    kernel = by_shape()
    if case.is_fp8:
        kernel.prepare = lambda case, inputs: partial(
            kernel.change, builtin()["fp8_emulated"].prepare(case, inputs), inputs
        )
        kernel.name = "fp8_emulated"
    shared = problem(case)
    record = run_trial(shared, kernel, timed=timed)
    assert record.status == "incorrect" and record.likely_cause == KEPT_ANSWER
    assert record.reason.startswith(
        "right when checked, wrong while it was timed: " if timed else "fresh_inputs_in_place: max error"
    )
    assert not shared.inputs_written(), "its own inputs are back in their place"


def test_what_is_not_timed_is_called_on_fresh_inputs_at_the_same_addresses():
    seen = []

    def looks(call, inputs):
        seen.append((inputs.q.data_ptr(), checksums(inputs)[0]))
        return call()

    record = run_trial(problem(), Backend(looks), timed=False)
    assert record.status == "ok" and record.accuracy.checks[-1].rule.startswith("fresh_inputs_in_place: ")
    places, numbers = (set(values) for values in zip(*seen))
    assert len(places) == 1 and len(numbers) == 2 and seen[-1][1] != seen[0][1]


def test_a_kernel_that_writes_its_fresh_inputs_broke_the_contract():
    count = [0]

    def writes(call, inputs):
        count[0] += 1
        outputs = call()
        if count[0] > 3:  # the check, and two repeats
            inputs.v.zero_()
        return outputs

    shared = problem()
    record = run_trial(shared, Backend(writes), timed=False)
    assert (record.kind, record.reason) == ("contract", "it wrote its inputs: v changed during the call")
    assert run_trial(shared, Backend(), timed=True).status == "ok"


def test_a_word_is_said_ahead_of_every_call():
    """So that a time-out bounds one call, however many a check or a measurement makes of them."""
    told = []

    def tells(call, inputs):
        told.append("call")
        return call()

    phases = Phases(lambda backend, phase: told.append("word"))
    assert run_trial(problem(phases=phases), Backend(tells), timed=False).status == "ok"
    calls = [index for index, event in enumerate(told) if event == "call"]
    assert len(calls) == 4 and all(told[index - 1] == "word" for index in calls)


def test_calls_by_the_thousand_say_a_word_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(phases_module.time, "perf_counter", lambda: clock[0])
    told = []
    phases = Phases(lambda backend, phase: told.append(clock[0]), alive_every_s=5.0)
    phases.alive()
    with phases("time"):
        for _ in range(100):
            clock[0] += 0.5
            phases.alive()
    assert told[0] == 0 and len(told) == 10 and 5 < told[1] <= 5.5
    assert problem(timing=QUICK.model_copy(update={"timeout_s": 2.0}), phases=phases).phases.alive_every_s == 0.5


def test_unwritten_memory_is_nan_while_checking_and_only_then():
    seen = []

    def looks(call, inputs):
        seen.append(bool(torch.empty(100_000).isnan().all()))
        return call()

    assert run_trial(problem(checks=Checks(repeats=0)), Backend(looks), timed=True).status == "ok"
    assert seen[0] is True and len(seen) > 5
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("case", [CASE, FP8], ids=["fp16", "e4m3"])
def test_fresh_numbers_in_the_same_memory(case):
    inputs, fresh = make_inputs(case), make_inputs(case, "cpu", 1)
    kept, places = copy_inputs(inputs), [tensor.data_ptr() for tensor in input_tensors(inputs)]
    with in_place_of(inputs, fresh) as placed:
        for tensor, other, place in zip(input_tensors(placed), input_tensors(fresh), places):
            assert tensor.data_ptr() == place and torch.equal(tensor.float(), other.float())
        assert not any(a is b for a, b in zip(input_tensors(placed), input_tensors(inputs)))
    assert checksums(inputs) == checksums(kept)
    with pytest.raises(RuntimeError), in_place_of(inputs, fresh):
        raise RuntimeError
    assert checksums(inputs) == checksums(kept)


@pytest.mark.parametrize("index", range(9))
def test_a_checksum_sees_any_write_to_any_tensor(index):
    inputs = make_inputs(FP8)
    before = checksums(inputs)
    tensor = input_tensors(inputs)[index]
    bits = tensor.view(torch.uint8)
    bits.flatten()[bits.numel() // 2] ^= 1
    after = checksums(inputs)
    assert [a != b for a, b in zip(before, after)] == [place == index for place in range(9)]


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_a_checksum_sees_values_that_only_moved(dim):
    inputs = make_inputs(dataclasses.replace(CASE, batch=2, num_heads_kv=2))
    before = checksums(inputs)
    inputs.k.copy_(inputs.k.flip(dim))
    assert checksums(inputs)[1] != before[1]


def test_phases_lie_inside_each_other_and_each_second_counts_once(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(phases_module.time, "perf_counter", lambda: clock[0])
    told = []
    phases = Phases(lambda backend, phase: told.append(phase))
    with phases("check"):
        clock[0] += 1
        with phases("oracle"):
            clock[0] += 10
        clock[0] += 2
    with pytest.raises(ValueError), phases("time"):
        clock[0] += 4
        raise ValueError
    assert phases.spent_s == {"check": 3.0, "oracle": 10.0, "time": 4.0}
    assert told == ["check", "oracle", "check", "time"]


def steady(record):
    """Warnings but the one that this machine was not still enough for the few samples here."""
    return tuple(warning for warning in record.warnings if warning != IN_WORDS[GAVE_UP])


def test_a_cold_cache_rotates_enough_input_sets():
    cold = QUICK.model_copy(update={"cache": "cold"})
    size = 2 * (24 * 2 * 16 + 2 * 24 * 16)
    record = run_trial(problem(timing=cold, cache_bytes=2 * size), Backend(), timed=True)
    assert record.measurement.input_sets == 11 and steady(record) == ()  # five caches hold ten sets, and one more
    warm = run_trial(problem(cache_bytes=2 * size), Backend(), timed=True)
    assert warm.measurement.input_sets == 1 and steady(warm) == ()


def test_a_rotation_that_would_take_too_long_says_that_the_cache_is_partly_warm(monkeypatch):
    monkeypatch.setattr(prepared, "ROTATION_PREPARE_S", 0.0)
    cold = QUICK.model_copy(update={"cache": "cold"})
    record = run_trial(problem(timing=cold, cache_bytes=2**20), Backend(), timed=True)
    assert record.status == "ok" and record.measurement.input_sets == 1
    assert record.warnings[0].startswith("cache partly warm: 1 input sets in turn, ")


def test_a_kernel_right_only_by_its_own_accumulator_is_stamped():

    class Rough(Backend):
        accumulator = "hopper"

        def prepare(self, case, inputs):
            call = builtin()["fp8_emulated"].prepare(case, inputs)
            noise = torch.randn(call().out.shape, generator=torch.Generator().manual_seed(0))

            def rough_call():
                outputs = call()
                return Outputs((outputs.out.float() * (1 + 0.02 * noise)).to(outputs.out.dtype), outputs.lse)

            return rough_call

    wide = Checks.model_validate({"factors": {"fp8": 50.0, "max_error": 50.0, "worst_row": 50.0}})
    record = run_trial(problem(FP8, checks=wide), Rough(), timed=False)
    assert record.status == "ok", record.reason
    (warning,) = record.warnings
    assert warning.startswith("E1 ") and warning.endswith("the limit with fp32 accumulation; it declares hopper")
    assert run_trial(problem(FP8), builtin()["fp8_emulated"], timed=False).warnings == ()


def test_a_probe_that_raises_beside_a_failure_is_told():
    def breaks(call, inputs):
        outputs = call()
        if bool(inputs.v.isnan().any()):
            raise ValueError("NaN in v")
        return dataclasses.replace(outputs, out=outputs.out * 1.5)

    record = run_trial(problem(checks=Checks(probes=("nan_v",))), Backend(breaks), timed=False)
    assert record.status == "incorrect"
    (raised,) = (check for check in record.accuracy.checks if check.rule.startswith("nan_v: "))
    assert raised.rule == "nan_v: raised" and not raised.passed and "NaN in v" in raised.where
