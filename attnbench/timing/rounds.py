"""The order in which arms that are compared take turns, and for how long. Pure: arms are told when to take a block.

A round is a row and its mirror image, so that each arm has two blocks in it and a drift that is linear within the round
weighs on all arms alike: ABBA or BAAB for two arms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

BLOCKS_A_ROUND = 2  # of each arm
# Blocks are twice as long after so many rounds: a long comparison needs no thousands of blocks in its record.
ROUNDS_UNTIL_DOUBLED = 16
# A round is begun while at least this share of one as long as the last still fits into the time allowed.
SHARE_THAT_FITS = 0.5


class Arm(Protocol):
    """One of the things compared."""

    def enough(self, more: float) -> bool:
        """Whether its own stopping rule has enough, or would not have with `more` times as many samples either."""

    def take(self, round: int, growth: int) -> None:
        """Measures one block, `growth` times as long as the shortest. May raise; that ends the rounds."""


def orders(arms: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Per round, the places of the arms in the order of their blocks; without end, the same for the same seed.

    Rows come from a Williams square, in which every arm stands in every place equally often and, together with the
    mirror images, follows every other equally often (E. J. Williams, "Experimental designs balanced for the estimation
    of residual effects of treatments", Australian Journal of Scientific Research A 2, 1949). Each square's arms and
    rows are shuffled.
    """
    generator = random.Random(seed)
    places, rows = list(range(arms)), _williams(arms)
    while True:
        generator.shuffle(places)
        generator.shuffle(rows)
        for row in rows:
            half = tuple(places[column] for column in row)
            yield half + half[::-1]


def _williams(arms: int) -> list[tuple[int, ...]]:
    """A Latin square whose first row is 0, 1, n-1, 2, n-2, ... and whose others are that row shifted."""
    first = [0, *(place // 2 + 1 if place % 2 == 0 else arms - place // 2 - 1 for place in range(arms - 1))]
    return [tuple((column + shift) % arms for column in first) for shift in range(arms)]


def take_turns(arms: Sequence[Arm], seed: int, limit_s: float, now: Callable[[], float]) -> bool:
    """Whole rounds, one at least, until every arm has enough or the next round would not fit into limit_s; whether that
    was since all had enough."""
    started = round_started = now()
    turns, number = orders(len(arms), seed), 0
    while True:
        for place in next(turns):
            arms[place].take(number, growth(number))
        ended = now()
        spent_s = ended - started
        more = limit_s / spent_s if spent_s > 0 else math.inf
        if all(arm.enough(more) for arm in arms):
            return True
        if spent_s + SHARE_THAT_FITS * (ended - round_started) > limit_s:
            return False
        round_started, number = ended, number + 1


def growth(number: int) -> int:
    """How many times as long as the shortest the blocks of round `number` are."""
    return 1 << number // ROUNDS_UNTIL_DOUBLED
