"""Suites as a noisy machine would time them, for measuring how often verdicts are wrong.

What makes times of equal code differ, each on its own scale: jitter of every call, a slow wander, warming up, offsets
that a process or a whole session (a run) gives to everything or to one case, rare spikes of a call, bursts that outlast
a block of an interleaved run, and steps of the SM clock under a power cap. The samples go into the same records that a
run writes, and nothing here judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
from fakes.compared_runs import MACHINE
from fakes.report_runs import accuracy

from attnbench.case import Case
from attnbench.compare.baseline import Side
from attnbench.records.measurement import Block, Conditions, Measurement
from attnbench.records.record import Record
from attnbench.records.store import Run

CLOCK_MHZ = 1755.0
BURST_CALLS = 10
CLOCK_STEP = 15 / CLOCK_MHZ  # an H100's SM clock moves in steps of 15 MHz


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations are of ln(time); 0.002 is 0.2 %.

    own: of one case in one process, by arm. shift: of everything in one session. capped: share of sessions that a power
    cap holds `cap` below the others from begin to end. steps: clock steps of a process while it measures (mean number).
    """

    jitter: float = 0.002
    wander: float = 0.003
    warm_up: float = 0.01
    own: float = 0.003 / 2**0.5  # so that the difference of two arms spreads by 0.3 % over processes
    shift: float = 0.005
    session_own: float = 0.002
    spikes: float = 0.003
    bursts: float = 0.002 / BURST_CALLS  # begun per sample
    steps: float = 2.0
    capped: float = 0.05
    cap: float = 0.03
    clocks: bool = True  # whether SM clocks are recorded


@cache
def cases(count: int) -> tuple[Case, ...]:
    return tuple(Case.make(batch=1 + index, seqlen=1024, num_heads=8, head_dim=64) for index in range(count))


@cache
def typical_s(count: int) -> numpy.ndarray:
    """ln of the seconds that each case takes: 30 us to 30 ms."""
    return numpy.linspace(numpy.log(3e-5), numpy.log(3e-2), count)


def turns(
    dice: numpy.random.Generator,
    which: Sequence[int],
    count: int,
    noise: Noise,
    processes: int = 5,
    rounds: int = 6,
    samples: int = 10,
    effects: Mapping[int, float] = {},
) -> dict[int, tuple[Measurement, Measurement]]:
    """(base, new) of the cases `which` of `count`: two arms that took turns, ABBA or BAAB, in fresh processes.

    effects: ln(new / base) of the cases whose code differs.
    """
    shape = (processes, len(which), 4 * rounds, samples)
    first = dice.integers(0, 2, (processes, len(which), rounds, 1))
    arm = numpy.where(first == 0, [0, 1, 1, 0], [1, 0, 0, 1]).reshape(shape[:3])
    logs = _within(dice, shape, noise) + typical_s(count)[list(which)][None, :, None, None]
    offsets = dice.normal(0, noise.own, (processes, len(which), 2))
    offsets[..., 1] += [effects.get(index, 0.0) for index in which]
    logs += numpy.take_along_axis(offsets, arm, axis=2)[..., None]
    clock = _steps(dice, shape[:3], noise)
    logs -= clock[..., None]
    times, arms, mhz = numpy.exp(logs).tolist(), arm.tolist(), (CLOCK_MHZ * numpy.exp(clock)).tolist()
    found = {}
    for place, index in enumerate(which):
        sides = tuple(
            [
                Block(tuple(times[p][place][b]), samples, p, b // 4, "",
                      conditions=_conditions(mhz[p][place][b], noise))
                for p in range(processes) for b in range(4 * rounds) if arms[p][place][b] == side
            ]
            for side in (0, 1)
        )  # fmt: skip
        found[index] = tuple(_measurement(blocks) for blocks in sides)
    return found


def side(dice: numpy.random.Generator, name: str, runs: int, count: int, noise: Noise, samples: int = 60,
         effects: Mapping[int, float] = {}) -> Side:  # fmt: skip
    """`runs` sessions one after the other, each case one block in one process: what a folder of stored runs holds."""
    return Side(
        Path(name), tuple(_session(dice, f"{name}{index}", count, noise, samples, effects) for index in range(runs))
    )


def _session(dice: numpy.random.Generator, name: str, count: int, noise: Noise, samples: int,
             effects: Mapping[int, float]) -> Run:  # fmt: skip
    clock = _steps(dice, (1, count, 1), noise)[0, :, 0] - (noise.cap if dice.random() < noise.capped else 0.0)
    logs = _within(dice, (1, count, 1, samples), noise)[0, :, 0]
    own = dice.normal(0, noise.own, count) + dice.normal(0, noise.session_own, count) + dice.normal(0, noise.shift)
    own += [effects.get(index, 0.0) for index in range(count)]
    times = numpy.exp(logs + (typical_s(count) + own - clock)[:, None]).tolist()
    mhz = (CLOCK_MHZ * numpy.exp(clock)).tolist()
    records = tuple(
        Record(case, "hopper", "1.0", "ok", accuracy=_right(), measurement=_measurement(
            [Block(tuple(times[index]), samples, conditions=_conditions(mhz[index], noise))]))
        for index, case in enumerate(cases(count))
    )  # fmt: skip
    return Run(Path(name), name, MACHINE, "", records)


def _within(dice: numpy.random.Generator, shape: tuple[int, ...], noise: Noise) -> numpy.ndarray:
    """What happens inside a process, in time order over its cases and blocks: (processes, cases, blocks, samples)."""
    processes, length = shape[0], shape[1] * shape[2] * shape[3]
    time = numpy.arange(length) / length
    periods = dice.uniform(0.02, 2, (processes, 3, 1))
    waves = numpy.sin(2 * numpy.pi * (time / periods + dice.random((processes, 3, 1)))).sum(axis=1)
    logs = noise.wander * waves * (2 / 3) ** 0.5 - noise.warm_up * numpy.exp(-time / 0.05)
    logs = logs.reshape(shape) + dice.normal(0, noise.jitter, shape)
    logs += numpy.where(dice.random(shape) < noise.spikes, dice.uniform(0.05, 1, shape), 0)
    for process, begin in zip(*numpy.nonzero(dice.random((processes, length)) < noise.bursts)):
        logs.reshape(processes, length)[process, begin : begin + BURST_CALLS] += dice.uniform(0.05, 0.3)
    return logs


def _steps(dice: numpy.random.Generator, shape: tuple[int, ...], noise: Noise) -> numpy.ndarray:
    """ln of the clock over its usual value, by process, case and block: steps up and down at random moments."""
    length = shape[1] * shape[2]
    steps = (dice.random((shape[0], length)) < noise.steps / length) * dice.integers(-2, 3, (shape[0], length))
    return numpy.clip(numpy.cumsum(steps, axis=1) * CLOCK_STEP, -0.05, 0.02).reshape(shape)


def _conditions(mhz: float, noise: Noise) -> Conditions | None:
    return Conditions(telemetry_samples=3, sm_clock_mhz=mhz) if noise.clocks else None


def _measurement(blocks: Sequence[Block]) -> Measurement:
    return Measurement(tuple(blocks), "events", "sustained", "cold", 1, True)


@cache
def _right():
    return accuracy()
