"""Runs for the tests of what compares them: stored ones with a spread of their own, and pairs that took turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from fakes import report_runs
from fakes.report_runs import H200, accuracy, case

from attnbench.records.measurement import Block, Conditions, Measurement
from attnbench.records.record import Record

MACHINE = {**H200, "device": "cuda:0", "machine": "0123456789abcdef"}
# When each run that is written began, so that none is another's copy.
_STARTS_S = itertools.count(1e9, 3600.0)
SEQLENS = (512, 1024, 2048, 4096, 8192)
BACKENDS = ("naive", "hopper[ws]")


def record(backend: str, time_s: float, timing: Mapping[str, Any] | None = None, blocks: Sequence[Block] | None = None,
           kernel: Mapping[str, Any] | None = None, **fields: Any) -> Record:  # fmt: skip
    """A passed and timed record whose median is time_s exactly."""
    made = {"timer": "events", "regime": "sustained", "cache": "cold", "calls_per_sample": 1, "converged": True}
    blocks = blocks or (Block(tuple(time_s * factor for factor in (0.99, 1.0, 1.03)), 3),)
    measurement = Measurement(**{"blocks": tuple(blocks), **made, **(timing or {})})
    return Record(case(**fields), backend, "1.0", "ok", accuracy=accuracy(), measurement=measurement, kernel=kernel)


def write_run(path: Path, records: Sequence[Record], environment: Mapping[str, Any] = MACHINE, name: str = "made",
              start_s: float | None = None) -> Path:  # fmt: skip
    """A run directory of its own: what was not timed at a moment of its own was timed at `start_s`."""
    start_s = next(_STARTS_S) if start_s is None else start_s
    return report_runs.write_run(path, [_begun(one, start_s) for one in records], dict(environment), name)


def _begun(one: Record, start_s: float) -> Record:
    measurement = one.measurement
    if measurement is None or any(block.start_s for block in measurement.blocks):
        return one
    blocks = tuple(replace(block, start_s=start_s) for block in measurement.blocks)
    return replace(one, measurement=replace(measurement, blocks=blocks))


def suite(dice: numpy.random.Generator, shift: float = 0.0, own: float = 0.001,
          change: Callable[[str, int], float] = lambda backend, seqlen: 1.0) -> list[Record]:  # fmt: skip
    """Ten records: every time is its case's own, times a shift of the whole run, a spread of its own, and `change`."""
    places = [(place, backend, seqlen) for place, backend in enumerate(BACKENDS) for seqlen in SEQLENS]
    factors = numpy.exp(shift + own * dice.normal(size=len(places)))
    return [
        record(backend, 1e-9 * seqlen**2 * (1 + place) * change(backend, seqlen) * factor, seqlen=seqlen)
        for (place, backend, seqlen), factor in zip(places, factors.tolist(), strict=True)
    ]


def baseline(folder: Path, runs: int = 3, environment: Mapping[str, Any] = MACHINE, shift: float = 0.001,
             own: float = 0.001) -> Path:  # fmt: skip
    """A folder of stored runs, their shifts evenly spaced."""
    dice = numpy.random.default_rng(1)
    for place, at in enumerate(numpy.linspace(-shift, shift, runs)):
        write_run(folder / str(place + 1), suite(dice, at, own), environment)
    return folder


def card(which: str, **settings: Any) -> dict[str, Any]:
    """The environment of a run on one of several H200 in hosts that are alike."""
    gpu = {**H200["gpu"], "fingerprint": f"card-{which}", **settings}
    return {**MACHINE, "machine": f"machine-{which}", "gpu": gpu}


def turns(side: str, time_s: float, processes: int = 5, start_s: float = 0.0, clock_mhz: float | None = None) -> dict:
    """How a side of an interleaved pair was measured: keywords of `record`. Processes are some 0.1 % apart."""
    blocks = [
        Block((time_s * (1 + 0.001 * process * (side == "head")),) * 3, 3, process, round, side,
              start_s + 60 * process + round, conditions=clock_mhz and Conditions(3, sm_clock_mhz=clock_mhz))
        for process in range(processes) for round in range(4)
    ]  # fmt: skip
    return {"timing": {"together": ("base", "head"), "order_seed": 7}, "blocks": blocks}


def new_run(path: Path, environment: Mapping[str, Any] = MACHINE, records: Sequence[Record] | None = None,
            change: Callable[[str, int], float] = lambda backend, seqlen: 1.0) -> Path:  # fmt: skip
    made = suite(numpy.random.default_rng(99), change=change) if records is None else records
    return write_run(path, made, environment)
