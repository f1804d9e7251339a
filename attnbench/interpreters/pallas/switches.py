"""Which of jax's interpreters runs the kernels that are traced now, and under which conditions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.pallas import tpu

from attnbench.interpreters.backend import Conditions
from attnbench.interpreters.pallas.launch import Launches

# Seed of the TPU interpreter's order of programs in every pass but the first: each seed is compiled for itself.
ORDER_SEED = 1
# NOTE: entries of the vector clocks by which races are found. jax's own number is 2 for one core: then all copies share
# one, and a read of what a second copy is still bringing counts as ordered.
CLOCKS = 64


@functools.cache
def key() -> Any:
    """Part of the key of jax's caches: what was traced under other conditions is traced again."""
    return jax.make_user_context()


@contextlib.contextmanager
def interpreting(mode: str, launches: Launches, conditions: Conditions) -> Iterator[None]:
    """The first pass has programs in order and a TPU's copies as late as they may be; every further one copies at once
    and has parallel programs in another order, or masked lanes that hold NaN."""
    further = conditions.order is not None or bool(conditions.poisoned)
    if mode == "tpu":
        how: Any = tpu.InterpretParams(detect_races=True, vector_clock_size=CLOCKS)
        if further:
            how = dataclasses.replace(how, dma_execution_mode="eager", random_seed=ORDER_SEED)
        traced: Any = ("tpu", further)
    else:
        before = launches.last
        launches.poisoned = conditions.poisoned if any(launches.undefined.get(name) for name in before) else False
        launches.reordered = conditions.order is not None and bool(launches.ordered.intersection(before))
        how, traced = True, ("hlo", launches.poisoned, launches.reordered)
    with key()(traced), tpu.force_tpu_interpret_mode(how), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def reset() -> None:
    """After an error in the TPU's interpreter, which keeps its memories for a debugger."""
    tpu.reset_tpu_interpret_mode_state()


def settings(mode: str) -> dict[str, Any]:
    """What decides the numbers, for the record."""
    return {
        "mended": False,
        "mode": mode,
        "seed": ORDER_SEED,
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
    }
