"""What a kernel keeps of earlier numbers shows while it is timed; honest kernels pass, and nothing they see is odd."""

import itertools
import time

import pytest
import torch
from test_trial import CASE, FP8, QUICK, Backend, problem

from attnbench.backend import Outputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.settings import Timing
from attnbench.timing.measure import Turns
from attnbench.worker.arms import time_together
from attnbench.worker.ceilings import Ceilings
from attnbench.worker.prepared import KEPT_ANSWER
from attnbench.worker.problem import Problem
from attnbench.worker.trial import check_trial, run_trial

COLD = QUICK.model_copy(update={"cache": "cold"})
SIZE = 2 * (24 * 2 * 16 + 2 * 24 * 16)
WHILE_TIMED = "right when checked, wrong while it was timed: "


def cold(case=CASE):
    """Eleven input sets in turn."""
    return problem(case, timing=COLD, cache_bytes=2 * SIZE)


class Keeps(Backend):
    """Right on every input set that it meets for the first time: after so many calls it answers from what it kept.

    key: of an answer that is kept, given the inputs.
    """

    def __init__(self, key, **traits):
        super().__init__(**traits)
        self.key, self.kept = key, {}

    def prepare(self, case, inputs):
        call = builtin()["naive"].prepare(case, inputs)

        def keeping():
            key = self.key(inputs)
            if key not in self.kept:
                self.kept[key] = call()
            return self.kept[key]

        return keeping


def few_numbers(inputs):
    tensors = (inputs.q, inputs.k, inputs.v)
    return tuple(f for x in tensors for f in (x.data_ptr(), float(x.flatten()[0]), float(x.flatten()[-1])))


KEPT = {
    "by object and version": lambda inputs: (id(inputs.q), inputs.q._version, float(inputs.v.float().abs().sum())),
    "by address and a few numbers": few_numbers,
    "by content of q and k": lambda inputs: float((inputs.q.float().sum() * inputs.k.float().sum()).abs()) > 1e9 or (
        inputs.v.data_ptr(), float(inputs.v.float().abs().sum())),
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("sets", ["one", "eleven"])
def test_an_answer_that_is_kept_is_wrong_while_it_is_timed(kept, sets):
    # So many calls that each set meets the few numbers of an earlier turn again, the signs between them changed.
    timing = QUICK.model_copy(
        update={"min_samples": 2000, "max_time_s": 0.5, "cache": "cold" if sets == "eleven" else "warm"}
    )
    record = run_trial(problem(timing=timing, cache_bytes=2 * SIZE), Keeps(KEPT[kept]), timed=True)
    assert record.status == "incorrect" and record.measurement is None
    assert record.reason.startswith(WHILE_TIMED), record.reason
    assert record.accuracy.recheck == "failed"


def test_one_of_several_loses_its_record_alone():
    shared = problem()
    held = [check_trial(shared, backend) for backend in (Backend(), Keeps(few_numbers, name="replay"))]
    found = {record.backend: record for record in time_together(shared, held)}
    assert found["mine"].status == "ok" and found["mine"].measurement.together == ()
    assert found["replay"].status == "incorrect" and found["replay"].reason.startswith(WHILE_TIMED)


class Ahead(Backend):
    """Everything is done in `prepare`."""

    def prepare(self, case, inputs):
        answer = builtin()["naive"].prepare(case, inputs)()
        return lambda: answer


@pytest.mark.parametrize("case", [CASE, FP8], ids=["fp16", "e4m3"])
def test_what_is_computed_ahead_is_no_call_unless_that_is_declared(case, monkeypatch):
    class EightBits(Ahead):
        def prepare(self, case, inputs):
            answer = builtin()["fp8_emulated"].prepare(case, inputs)()
            return lambda: answer

    monkeypatch.setattr(Ceilings, "beyond", lambda *given: ())  # a call that does nothing may well exceed them
    kind = EightBits if case.is_fp8 else Ahead
    record = run_trial(cold(case), kind(), timed=True)
    assert record.status == "incorrect" and record.reason.startswith(WHILE_TIMED)
    assert KEPT_ANSWER in record.reason
    declared = run_trial(cold(case), kind(copies_inputs=True), timed=True)
    assert declared.status == "ok", declared.reason
    assert declared.measurement.prep_s > min(declared.measurement.samples_s), "the work is in the preparation"


def test_other_bits_each_time_are_judged_by_the_rules():
    """A kernel whose sums come in another order each time, within what rounding explains."""
    dice = torch.Generator().manual_seed(1)

    def shaken(call, inputs):
        outputs = call()
        noise = 1 + 2.0**-14 * torch.randn(outputs.out.shape, generator=dice)
        return Outputs((outputs.out.float() * noise).to(outputs.out.dtype), outputs.lse)

    record = run_trial(cold(), Backend(shaken, deterministic=False), timed=True)
    assert record.status == "ok", record.reason
    assert record.accuracy.recheck == "a buffer of every batch; fresh inputs"
    counted = itertools.count()

    def broken(call, inputs):
        outputs = shaken(call, inputs)
        return outputs if next(counted) < 8 else Outputs(outputs.out * 1.5, outputs.lse)

    record = run_trial(cold(), Backend(broken, deterministic=False), timed=True)
    assert record.status == "incorrect" and "wrong" in record.reason


def test_an_output_buffer_that_is_written_each_time_is_honest():
    class Static(Backend):
        def prepare(self, case, inputs):
            call = builtin()["naive"].prepare(case, inputs)
            out = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v, dtype=inputs.q.dtype)

            def into():
                made = call()
                return Outputs(out.copy_(made.out), made.lse)

            return into

    assert run_trial(cold(), Static(), timed=True).status == "ok"


def test_inputs_are_whole_again_and_as_a_kernel_expects_them():
    seen = set()

    def looks(call, inputs):
        seen.add((inputs.q.data_ptr(), inputs.q._version, tuple(inputs.q.stride()), bool(inputs.q.isfinite().all())))
        return call()

    shared = cold()
    before = [x.clone() for x in (shared.reference.inputs.q, shared.reference.inputs.k, shared.reference.inputs.v)]
    record = run_trial(shared, Backend(looks), timed=True)
    assert record.status == "ok" and {one[3] for one in seen} == {True}
    assert len({one[0] for one in seen}) < len(seen) + 1
    after = (shared.reference.inputs.q, shared.reference.inputs.k, shared.reference.inputs.v)
    assert all(torch.equal(x, y) for x, y in zip(before, after))
    assert shared.phases.spent_s["signs"] > 0


def test_the_same_seed_gives_the_same_signs():
    def drawn(seed):
        seen = []
        shared = Problem(CASE, "cpu", problem().checks, QUICK, 0, problem().phases, seed=seed)
        keeps = Backend(lambda call, inputs: seen.append(inputs.v[0, 0, 0].sign().tolist()) or call())
        assert run_trial(shared, keeps, timed=True).status == "ok"
        return [signs for signs, before in itertools.pairwise(seen) if signs != before][:5]

    assert drawn(7) == drawn(7) != drawn(8)


def test_a_set_changes_far_from_its_calls():
    """Its numbers change half a rotation after its call, and half a rotation ahead of the next."""
    told = []
    turns = Turns([lambda: None] * 6, renew=told.append)
    for _ in range(12):
        next(turns)
        told.append(("called", turns.last))
    assert told[:4] == [3, ("called", 0), 4, ("called", 1)] and told[10:14] == [2, ("called", 5), 3, ("called", 0)]
    assert isinstance(QUICK, Timing)


def test_few_rows_that_are_right_by_all_are_no_reason_to_accuse():
    """e5m2 with channel outliers: at the 16 rows of a spot check the eager reference is off by half as much."""
    shape = {"batch": 2, "num_heads": 1, "head_dim": 32, "seqlen": 255, "causal": True}
    case = Case.make(**shape, dtype="e5m2", inputs="channel_outliers")
    backend = TiledForward(Choices(tile_n=224))
    shared = problem(case)
    outputs = backend.prepare(case, shared.fresh.inputs)()
    assert not judge(shared.fresh, backend, outputs, shared.checks.factors).passed
    assert shared.judged_at_few_rows(shared.fresh, backend, outputs).passed
    assert run_trial(problem(case), backend, timed=True).status == "ok"
    spoiled = Outputs(outputs.out * 1.05, outputs.lse)
    assert not shared.judged_at_few_rows(shared.fresh, backend, spoiled).passed


def all_numbers(inputs):
    return tuple(x.view(torch.int16).numpy().tobytes() for x in (inputs.q, inputs.k, inputs.v))


class Slowly(Keeps):
    """Half a millisecond for every answer that is not kept."""

    def prepare(self, case, inputs):
        call = super().prepare(case, inputs)

        def slowly():
            if self.key(inputs) not in self.kept:
                time.sleep(5e-4)
            return call()

        return slowly


@pytest.mark.parametrize("sets", ["one", "eleven"])
def test_work_that_is_kept_per_input_is_told_and_no_fault(sets):
    """Right whatever the numbers, and timed with the work, since no timed call meets the numbers of another."""
    shared = cold() if sets == "eleven" else problem()
    kept, plain = (run_trial(shared, Slowly(key), timed=True) for key in (all_numbers, lambda inputs: object()))
    words = "the first call after its inputs changed takes "
    assert kept.status == plain.status == "ok"
    assert [warning for warning in kept.warnings if warning.startswith(words)] != []
    assert [warning for warning in plain.warnings if warning.startswith(words)] == []
    assert min(kept.measurement.samples_s) > 5e-4
