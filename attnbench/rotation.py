"""Input sets that are called in turn, so that each call finds the cache cold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.backend import Backend, Call, Inputs, extra_bytes
from attnbench.case import Case
from attnbench.machine.facts import available_memory_bytes
from attnbench.reference.inputs import copy_inputs, input_bytes

if TYPE_CHECKING:
    from attnbench.bench import Bench

# Input sets for a cold cache: enough to hold this many caches, within this share of memory and so long a preparation.
CACHES_ROTATED = 5
ROTATION_MEMORY_SHARE = 0.25
ROTATION_PREPARE_S = 2.0


def rotation(bench: Bench, backend: Backend, inputs: Inputs, first: Call, held: Sequence[Backend]) -> list[Call]:
    """The first call, on `inputs`, and one on each further set: as many as a cold cache takes, memory holds for all of
    `held` (the backends that are prepared at the same time), or ROTATION_PREPARE_S allows."""
    calls, started = [first], time.perf_counter()
    sets = _input_sets(bench, held)
    while len(calls) < sets and time.perf_counter() - started < ROTATION_PREPARE_S:
        calls.append(backend.prepare(bench.case, copy_inputs(inputs)))
    return calls


def set_bytes(case: Case, held: Sequence[Backend]) -> int:
    """What one input set of each takes, with what each backend says that it needs beside its inputs."""
    return sum(input_bytes(case) + extra_bytes(backend, case) for backend in held)


def _input_sets(bench: Bench, held: Sequence[Backend]) -> int:
    if bench.timing.cache == "warm" or bench.timing.regime == "burst":
        return 1
    memory = available_memory_bytes(bench.device) * ROTATION_MEMORY_SHARE
    return max(1, min(_sets_for_cold(bench), int(memory // set_bytes(bench.case, held))))


def _sets_for_cold(bench: Bench) -> int:
    size = input_bytes(bench.case)
    rotated = CACHES_ROTATED * bench.cache_bytes
    return 1 if size > rotated else -(-rotated // size) + 1


def rotation_warning(bench: Bench, sets: int) -> tuple[str, ...]:
    wanted = _sets_for_cold(bench)
    if bench.timing.cache == "warm" or bench.timing.regime == "burst" or sets >= wanted:
        return ()
    return (f"cache partly warm: {sets} input sets in turn, {wanted} would hold {CACHES_ROTATED} times the cache",)
