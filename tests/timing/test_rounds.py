"""Whose turn it is: orders by brute force, rounds with arms and a clock that do as they are told."""

import collections
import itertools

import pytest

from attnbench.timing import rounds
from attnbench.timing.rounds import ROUNDS_UNTIL_DOUBLED, growth, orders, take_turns


def first(arms, seed, count):
    return list(itertools.islice(orders(arms, seed), count))


def test_two_arms_take_turns_abba_or_baab_at_random():
    taken = first(2, 7, 400)
    assert set(taken) == {(0, 1, 1, 0), (1, 0, 0, 1)}
    assert taken.count((0, 1, 1, 0)) == 200
    changes = sum(a != b for a, b in itertools.pairwise(taken))
    assert 230 < changes < 370, "neither in blocks nor strictly alternating"


@pytest.mark.parametrize("arms", range(1, 9))
def test_every_arm_has_two_blocks_a_round_and_every_place_equally_often_over_a_square(arms):
    square = first(arms, 3, arms)
    for order in square:
        assert sorted(order) == sorted(2 * list(range(arms))) and order == order[::-1]
    for column in zip(*square):
        assert sorted(column) == list(range(arms))


@pytest.mark.parametrize("arms", range(2, 9))
def test_every_arm_follows_every_other_equally_often(arms):
    follows = collections.Counter(
        pair
        for order in first(arms, 5, arms)
        for half in (order[:arms], order[arms:])
        for pair in itertools.pairwise(half)
    )
    assert len(follows) == arms * (arms - 1) and len(set(follows.values())) == 1


@pytest.mark.parametrize("arms", range(2, 6))
def test_a_drift_that_is_linear_within_a_round_weighs_on_all_arms_alike(arms):
    for order in first(arms, 11, 3 * arms):
        places = [[place for place, arm in enumerate(order) if arm == one] for one in range(arms)]
        assert {sum(pair) for pair in places} == {2 * arms - 1}


def test_the_same_seed_gives_the_same_order_and_another_one_another():
    assert first(4, 1, 40) == first(4, 1, 40) != first(4, 2, 40)


class Machine:
    """A clock and arms whose blocks take as long as they say."""

    def __init__(self, *lengths_s, enough=10**9):
        self.now_s, self.taken, self.asked = 50.0, [], []
        self.arms = [self.Arm(self, name, length_s, enough) for name, length_s in enumerate(lengths_s)]

    class Arm:
        def __init__(self, machine, name, length_s, enough):
            self.machine, self.name, self.length_s, self.needs, self.blocks = machine, name, length_s, enough, []

        def enough(self, more):
            self.machine.asked.append(more)
            return len(self.blocks) >= self.needs

        def take(self, round, growth):
            self.blocks.append((round, growth))
            self.machine.taken.append(self.name)
            self.machine.now_s += self.length_s * growth

    def run(self, limit_s, seed=0):
        self.early = take_turns(self.arms, seed, limit_s, lambda: self.now_s)
        return self


def test_rounds_end_when_all_have_enough_and_not_before():
    machine = Machine(0.1, 0.1)
    machine.arms[0].needs, machine.arms[1].needs = 2, 7
    machine.run(limit_s=100)
    assert [len(arm.blocks) for arm in machine.arms] == [8, 8], "whole rounds, both arms alike"
    assert [round for round, _ in machine.arms[0].blocks] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert machine.taken == [arm for order in first(2, 0, 4) for arm in order]
    assert machine.early and not Machine(0.1, 0.1).run(limit_s=1).early


def test_arms_are_asked_with_what_the_time_left_allows():
    machine = Machine(0.1).run(limit_s=2.0)
    assert machine.asked == pytest.approx([2.0 / (0.2 * round) for round in range(1, 11)])


def test_the_first_round_is_whole_however_long_it_takes_and_the_rest_keeps_to_the_limit():
    assert len(Machine(5.0, 5.0).run(limit_s=1).taken) == 4
    assert len(Machine(0.1, 0.1).run(limit_s=1.0).taken) == 8, "a third round would end at 1.2 s: half of it fits"


@pytest.mark.parametrize("limit_s", [0.9, 1.0, 3.3, 20.0])
def test_the_limit_is_overrun_by_half_a_round_at_most(limit_s):
    machine = Machine(0.05, 0.02, 0.03).run(limit_s=limit_s)
    longest_s = 0.2 * growth(machine.arms[0].blocks[-1][0])
    assert limit_s - longest_s < machine.now_s - 50.0 < limit_s + longest_s


def test_blocks_grow_so_that_a_long_comparison_has_few():
    machine = Machine(0.02, 0.02).run(limit_s=30.0)
    growths = [growth for _, growth in machine.arms[0].blocks]
    assert growths[: 2 * ROUNDS_UNTIL_DOUBLED] == [1] * 2 * ROUNDS_UNTIL_DOUBLED and growths == sorted(growths)
    assert len(growths) < 200 and set(growths) == {1, 2, 4, 8, 16}
    assert rounds.growth(0) == 1


def test_what_an_arm_raises_ends_the_rounds():
    machine = Machine(0.1, 0.1)

    def fail(round, growth):
        raise ArithmeticError("tired")

    machine.arms[1].take = fail
    with pytest.raises(ArithmeticError):
        machine.run(limit_s=1)
    assert len(machine.arms[0].blocks) <= 1
