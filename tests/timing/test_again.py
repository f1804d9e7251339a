"""Calls that are slower just after their inputs changed are told; equal ones, however noisy, are not."""

import random

import pytest

from attnbench.timing.again import PAIRS, slower_when_changed


def kernel(changed_s, same_s, noise, taken=None):
    def take(changed):
        if taken is not None:
            taken.append(changed)
        return (changed_s if changed else same_s) * noise()

    return take


@pytest.mark.parametrize("times", [2.0, 12.0, 1000.0])
def test_work_kept_per_input_is_told_with_its_factor(times):
    draw = random.Random(3)
    found = slower_when_changed(kernel(1e-3 * times, 1e-3, lambda: draw.uniform(0.9, 1.1)), 1e-3 * times)
    assert found == pytest.approx(times, rel=0.15)


def test_one_call_is_enough_where_nothing_is_kept():
    taken = []
    assert slower_when_changed(kernel(1e-3, 1e-3, lambda: 1.0, taken), 1e-3) is None
    assert taken == [False]


def test_a_lucky_first_look_is_not_believed():
    first = iter([0.3])
    taken = []
    take = kernel(1e-3, 1e-3, lambda: next(first, 1.0), taken)
    assert slower_when_changed(take, 1e-3) is None
    assert len(taken) == 1 + 2 * PAIRS


def test_calls_shorter_than_a_timer_reads_are_left_alone():
    assert slower_when_changed(kernel(1e-5, 1e-7, lambda: 1.0), 1e-5) is None


NOISE = {
    "heavy tail": lambda draw: draw.paretovariate(1.1),
    "two speeds": lambda draw: draw.choice((1.0, 4.0)),
    "log-normal": lambda draw: draw.lognormvariate(0.0, 1.0),
}


@pytest.mark.parametrize("kind", NOISE)
def test_machines_that_others_use_cause_no_false_alarm(kind):
    """4,000 measurements of a kernel that keeps nothing, each on a machine worse than any seen."""
    draw = random.Random(11)
    noise = NOISE[kind]
    medians = {"heavy tail": 1.88, "two speeds": 2.5, "log-normal": 1.0}
    alarms = sum(
        slower_when_changed(kernel(1e-3, 1e-3, lambda: noise(draw)), medians[kind] * 1e-3) is not None
        for _ in range(4000)
    )
    assert alarms <= 4, alarms
