"""Several backends timed in turns in this process: their records, and what one of them may do to the others."""

import itertools

import pytest
from test_trial import CASE, QUICK, Backend, problem, steady

from attnbench.compare.differences import process_differences
from attnbench.records.record import Record
from attnbench.worker import arms
from attnbench.worker import prepared as rotation
from attnbench.worker.arms import order_seed, time_together
from attnbench.worker.phases import Phases
from attnbench.worker.trial import check_trial


def named(name, change=None, **traits):
    return Backend(change, name=name, **traits)


def records(shared, *backends, process=0):
    held = [check_trial(shared, backend) for backend in backends]
    assert not any(isinstance(checked, Record) for checked in held), held
    return {record.backend: record for record in time_together(shared, held, process)}


def after(calls, do):
    """A change that lets `calls` calls pass and does `do(outputs, inputs)` from then on."""
    count = [0]

    def change(call, inputs):
        count[0] += 1
        outputs = call()
        return outputs if count[0] <= calls else do(outputs, inputs)

    return change


CHECKED = 5  # calls before a backend is timed: the first one, two repeats, and room


def test_two_backends_share_their_rounds_and_know_of_each_other():
    told = []
    found = records(problem(phases=Phases(lambda *phase: told.append(phase))), named("one"), named("two"), process=4)
    one, two = (found[name].measurement for name in ("one", "two"))
    assert {record.status for record in found.values()} == {"ok"}
    assert one.together == two.together == ("one", "two")
    assert one.order_seed == two.order_seed == order_seed(CASE.key, ["one", "two"])
    assert {block.arm for block in one.blocks} == {"1"} and {block.arm for block in two.blocks} == {"2"}
    assert [(b.process, b.round) for b in one.blocks] == [(b.process, b.round) for b in two.blocks]
    assert {block.process for block in one.blocks} == {4}
    assert set(process_differences(one.blocks, two.blocks)) == {4}, "they pair"
    inside = sorted((b.start_s, b.start_s + b.duration_s) for m in (one, two) for b in m.blocks)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(inside)), "one at a time"
    turns = [backend for backend, phase in told if phase == "time"]
    assert turns[:2] == ["one", "two"] and sorted(turns[2:6]) == ["one", "one", "two", "two"]
    assert turns[2:6] == turns[2:6][::-1], "ABBA or BAAB"
    for record in found.values():
        assert record.accuracy.recheck == "a buffer of every batch; fresh inputs"
        assert record.measurement.prep_s > 0 and steady(record) == ()


def test_one_alone_is_timed_as_ever():
    (record,) = records(problem(), named("one")).values()
    assert (record.measurement.together, record.measurement.order_seed) == ((), None)


def test_what_one_raises_costs_its_own_record_and_the_others_start_again():
    def fails(outputs, inputs):
        raise ArithmeticError("tired")

    found = records(problem(), named("one"), named("bad", after(12, fails)), named("three"))
    assert found["bad"].status == "error"
    assert found["bad"].reason.startswith("while being timed: ArithmeticError: tired")
    assert found["bad"].accuracy.passed
    assert found["one"].measurement.together == found["three"].measurement.together == ("one", "three")


def test_the_last_one_left_is_timed_alone():
    def exits(outputs, inputs):
        raise SystemExit(3)

    found = records(problem(), named("bad", after(12, exits)), named("two"))
    assert found["bad"].kind == "exception" and found["two"].status == "ok"
    assert found["two"].measurement.together == ()


def test_one_that_cannot_be_prepared_twice_is_left_out():
    class Once(Backend):
        prepared = 0

        def prepare(self, case, inputs):
            self.prepared += 1
            if self.prepared > 2:  # the check, and its repeats
                raise RuntimeError("once only")
            return super().prepare(case, inputs)

    found = records(problem(), named("one"), Once(name="once"))
    assert found["once"].reason.startswith("while being timed: RuntimeError: once only") and found["one"].status == "ok"


def test_one_that_writes_its_inputs_while_timed_is_named_and_no_other():
    def writes(outputs, inputs):
        inputs.k.zero_()
        return outputs

    shared = problem()
    found = records(shared, named("one"), named("bad", after(CHECKED, writes)), named("three"))
    assert (found["bad"].kind, found["bad"].reason) == (
        "contract", "while being timed: it wrote its inputs: k changed",
    )  # fmt: skip
    assert found["one"].status == found["three"].status == "ok" and not shared.inputs_written()


def test_one_that_is_wrong_after_a_while_is_incorrect_and_the_others_are_right():
    def wrong(outputs, inputs):
        outputs.out.mul_(1.5)
        return outputs

    found = records(problem(), named("one"), named("bad", after(CHECKED, wrong)))
    assert found["bad"].status == "incorrect"
    assert found["bad"].reason.startswith("right when checked, wrong while it was timed")
    assert found["one"].status == "ok" and found["one"].measurement.together == ()


def test_an_interruption_is_not_swallowed():
    def interrupted(outputs, inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records(problem(), named("one"), named("two", after(12, interrupted)))


def test_what_cannot_be_held_together_is_timed_one_after_the_other_and_says_so(monkeypatch):
    monkeypatch.setattr(arms, "available_memory_bytes", lambda device: 2**20)
    greedy = {"extra_bytes": lambda case: 2**19}
    found = records(problem(), named("one", **greedy), named("two", **greedy))
    for record in found.values():
        assert record.status == "ok" and record.measurement.together == ()
        (warning,) = steady(record)
        assert warning.startswith("timed one after the other: inputs of 2 backends together need about 0.0 GiB, and ")


def test_no_memory_when_all_are_held_is_nobodys_fault():
    places = set()

    class Large(Backend):
        def prepare(self, case, inputs):
            new = inputs.q.data_ptr() not in places
            places.add(inputs.q.data_ptr())
            if new and len(places) == 3:  # after the checked set and the first one's own: no room for the second one's
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().prepare(case, inputs)

    shared = problem()
    found = records(shared, Large(name="one"), Large(name="two"))
    assert {record.status for record in found.values()} == {"ok"}
    for record in found.values():
        assert steady(record) == ("timed one after the other: there was no memory for all of 2 at once",)


def test_input_sets_of_all_share_the_memory_for_rotation(monkeypatch):
    size = 2 * (24 * 2 * 16 + 2 * 24 * 16)
    cold = QUICK.model_copy(update={"cache": "cold"})
    monkeypatch.setattr(rotation, "available_memory_bytes", lambda device: 4 * 12 * size)  # a quarter: twelve sets
    (alone,) = records(problem(timing=cold, cache_bytes=10 * size), named("one")).values()
    assert alone.measurement.input_sets == 12
    for record in records(problem(timing=cold, cache_bytes=10 * size), named("one"), named("two")).values():
        assert record.measurement.input_sets == 6
        assert steady(record)[0].startswith("cache partly warm: 6 input sets in turn, 51 would hold")


def test_each_has_input_sets_of_its_own():
    seen = {"one": set(), "two": set()}

    def looks(name):
        def change(call, inputs):
            seen[name].add(inputs.q.data_ptr())
            return call()

        return change

    shared = problem()
    records(shared, named("one", looks("one")), named("two", looks("two")))
    checked = shared.reference.inputs.q.data_ptr()
    assert seen["one"] - {checked} and seen["two"] - {checked}
    assert not (seen["one"] & seen["two"]) - {checked}
