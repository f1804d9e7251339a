"""How often a verdict is wrong, over simulated suites of 40 cases: `ab` and `gate` on equal code, a slowdown found.

Noise: tests/fakes/simulated_noise.py. Its samples go through what `ab` and `gate` decide with (pairing, verdict,
compare, ruling). Limits: a confirmed regression in at most 1 % of suites of equal code at the 1 % margin; 3 % on one
case found by `ab` in at least 95 % of suites with 5 processes. Exit status 1 when one is missed.
Usage: false_alarms.py [--suites N]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fakes.simulated_noise import Noise, side, turns  # noqa: E402

from attnbench.compare.comparison import compare  # noqa: E402
from attnbench.compare.gate import REGRESSED, judge_gate  # noqa: E402
from attnbench.compare.margin import Margin  # noqa: E402
from attnbench.compare.pairs import pair_of_turns  # noqa: E402
from attnbench.compare.verdict import SLOWER, Pair, confirm, decide, to_confirm  # noqa: E402

CASES, SUITES, MARGIN = 40, 500, Margin(0.01)
MOST_FALSE, LEAST_FOUND = 0.01, 0.95
# A case in the middle of the suite, so that it is neither the shortest nor the first one measured.
CHANGED = 17
# A machine whose clocks are not recorded. They are constant: a stored baseline cannot tell a session at a lower clock
# from slower code, where nobody noted the clock.
UNCLOCKED = Noise(clocks=False, steps=0.0, capped=0.0)


def ab(dice: numpy.random.Generator, noise: Noise, effects: Mapping[int, float] = {}) -> tuple[set[int], set[int]]:
    """(slower at first, slower once confirmed in fresh processes), as `ab` decides with 5 processes."""

    def measured(which: Iterable[int]) -> dict[int, Pair]:
        taken = turns(dice, which, CASES, noise, effects=effects)
        return {index: pair_of_turns(*sides) for index, sides in taken.items()}

    first = decide(measured(range(CASES)), MARGIN)
    again = to_confirm(first)
    final = confirm(first, measured(again) if again else {}, MARGIN)
    return set(again), {index for index, verdict in final.items() if verdict.kind == SLOWER}


def gate(dice: numpy.random.Generator, noise: Noise, runs: int, effects: Mapping[int, float] = {}) -> tuple[bool, bool]:
    """(exit status 1, the changed case slower), for one new run against `runs` stored ones."""
    comparison = compare(
        side(dice, "base", runs, CASES, noise), side(dice, "new", 1, CASES, noise, effects=effects), MARGIN
    )
    verdict = comparison.cells[CHANGED].verdict
    found = verdict is not None and verdict.kind == SLOWER
    return judge_gate(comparison, strict=False).status == REGRESSED, found


def false_alarms(suites: int) -> int:
    failed = 0
    for clocks in (True, False):
        dice, noise = numpy.random.default_rng(1), Noise(clocks=clocks)
        first, final = zip(*(ab(dice, noise) for _ in range(suites)))
        words = "SM clocks recorded" if clocks else "no clocks recorded"
        rate = sum(map(bool, final)) / suites
        failed += _line(f"ab, equal code, {words}", rate, f"at first {sum(map(bool, first)) / suites:.1%}, ")
    for runs in (3, 5):
        for words, noise in (
            ("SM clocks recorded, 5 % of sessions capped by 3 %", Noise()),
            ("no clocks recorded, and constant", UNCLOCKED),
            ("the same, sessions shifted by 1 %", replace(UNCLOCKED, shift=0.01)),
        ):
            dice = numpy.random.default_rng(2)
            rate = sum(gate(dice, noise, runs)[0] for _ in range(suites)) / suites
            failed += _line(f"gate, equal code, {runs} stored runs, {words}", rate)
    return failed


def power(suites: int) -> int:
    failed = 0
    for effect in (0.02, 0.03, 0.05):
        dice, effects = numpy.random.default_rng(3), {CHANGED: math.log1p(effect)}
        rate = sum(CHANGED in ab(dice, Noise(clocks=False), effects)[1] for _ in range(suites)) / suites
        limit = LEAST_FOUND if effect == 0.03 else None
        failed += limit is not None and rate < limit
        wanted = "" if limit is None else f" (at least {limit:.0%})"
        what = f"ab, one case of {CASES} slower by {effect:.0%}, 5 processes"
        print(f"{what}: found in {rate:.1%} of {suites} suites{wanted}")
    for runs in (3, 5):
        for effect in (0.03, 0.05, 0.10):
            dice = numpy.random.default_rng(4)
            rate = sum(gate(dice, UNCLOCKED, runs, {CHANGED: math.log1p(effect)})[1] for _ in range(suites)) / suites
            what = f"gate, one case slower by {effect:.0%}, {runs} stored runs, sessions shifted by 0.5 %"
            print(f"{what}: found in {rate:.1%}")
    return failed


def _line(what: str, rate: float, more: str = "") -> int:
    print(f"{what}: {more}a confirmed regression in {rate:.1%} of suites (at most {MOST_FALSE:.0%})", flush=True)
    return rate > MOST_FALSE


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--suites", type=int, default=SUITES)
    asked = arguments.parse_args()
    started = time.process_time()
    failed = false_alarms(asked.suites) + power(asked.suites)
    print(f"{asked.suites} suites of {CASES} cases each, {time.process_time() - started:.0f} s of processor time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
