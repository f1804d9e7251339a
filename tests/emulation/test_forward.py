"""Every variant of every forward kernel, emulated, against the fp64 answer.

`make test` runs each variant on every shape under one delivery each (all three come up for every variant; of e4m3,
whose sums take longer, every other shape), and one shape under all; the marker `full` runs the whole product with
several seeds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from emulator import DELIVERIES, EAGER, LAZY, RANDOM, Schedule
from fp8_problem import operands
from parallel import build_each, load, run_parallel
from problem import Problem, launch

from attnbench.hopper.library import Variant
from attnbench.hopper.toolchain import KERNELS

SOURCES = sorted(KERNELS.glob("fwd_*.cu"))
SHAPES = (
    Problem(1, 1),
    Problem(64, 128),
    Problem(130, 200, num_heads=2, num_heads_kv=1),  # tails, GQA
    Problem(77, 300, batch=2, num_heads=2, layout="bhsd"),  # seqlen_q < seqlen_k, other strides
    Problem(300, 77, num_heads=2),  # seqlen_q > seqlen_k: causal rows that see no key, tiles that see none
    Problem(257, 129, num_heads=4, num_heads_kv=2, layout="bhsd"),  # many more tiles than multiprocessors
    Problem(40, 1000),  # many more key tiles than stages
    Problem(193, 385, num_heads=3, num_heads_kv=3, lse=False),
)
ALL_DELIVERIES = Problem(257, 449, num_heads=2, num_heads_kv=1)  # several tiles a CTA, several laps of the ring
FULL_SEEDS = range(3)
# What e4m3 adds to a problem, one after the other: every shape with another scaling, P scale and output type.
FP8_CHOICES = (
    {"scaling": "head"},
    {"scaling": "block", "out_dtype": "fp16"},
    {"scaling": "tensor", "p_scale": 1},
    {"scaling": "block", "p_scale": 16},
    {"scaling": "none", "out_dtype": "fp16"},
    {"scaling": "block"},
)


@dataclass(frozen=True)
class Run:
    source: Path
    variant: int
    problem: Problem
    causal: bool
    schedule: Schedule


def choices(variant: Variant) -> tuple[dict, ...]:
    """What to try beside the shape: nothing for 16-bit types."""
    if variant.dtype != "e4m3":
        return ({},)
    return tuple(one for one in FP8_CHOICES if variant.takes_blocks or one["scaling"] != "block")


def hopper_sums(variant: Variant, wanted: bool) -> str:
    """How a launch sums: as Hopper's tensor core where wanted, which e4m3 alone shows, and takes four times as long."""
    return "truncated" if wanted and variant.dtype == "e4m3" else "fp32"


def failure(run: Run) -> str:
    """ "" or what went wrong, with all that is needed to see it again."""
    kernel = load(run.source)
    variant = kernel.library.variants[run.variant]
    inputs = operands(run.problem, variant.dtype, variant.head_dim, run.causal)
    outcome = launch(kernel, variant, run.problem, inputs, run.causal, run.schedule)
    return "" if outcome.clean else f"{variant.key} {run.problem} causal={run.causal} [{run.schedule}]: {outcome}"


def masks(causal: bool | None) -> tuple[bool, ...]:
    return (False, True) if causal is None else (causal,)


def quick_runs(source: Path) -> list[Run]:
    runs = []
    for variant in load(source).library.variants:
        for causal in masks(variant.causal):
            own = choices(variant)
            for i, shape in enumerate(SHAPES):
                if variant.dtype == "e4m3" and (i + variant.index + causal) % 2:
                    continue
                problem = replace(shape, **own[(i + variant.index) % len(own)])
                delivery = DELIVERIES[(i + variant.index) % 3]
                resident = 1 + (i + variant.index // 3) % 2
                schedule = Schedule(delivery, seed=variant.index, resident_ctas=resident)
                runs.append(Run(source, variant.index, problem, causal, schedule))
            for i, delivery in enumerate(DELIVERIES):
                problem = replace(ALL_DELIVERIES, **own[i % len(own)])
                sums = hopper_sums(variant, delivery == RANDOM)
                schedule = Schedule(delivery, seed=1000 + variant.index, resident_ctas=2, accumulator=sums)
                runs.append(Run(source, variant.index, problem, causal, schedule))
    return runs


def full_runs(source: Path) -> list[Run]:
    runs = []
    for variant in load(source).library.variants:
        shapes = [replace(shape, **own) for shape in (*SHAPES, ALL_DELIVERIES) for own in choices(variant)]
        product = itertools.product(masks(variant.causal), shapes, DELIVERIES, FULL_SEEDS)
        for causal, problem, delivery, seed in product:
            schedule = Schedule(delivery, seed=77 * seed + variant.index, resident_ctas=1 + seed % 2)
            sums = hopper_sums(variant, delivery == RANDOM and seed == FULL_SEEDS[-1])
            runs.append(Run(source, variant.index, problem, causal, replace(schedule, accumulator=sums)))
            runs.append(Run(source, variant.index, problem, causal, replace(schedule, multiprocessors=5)))
    return runs


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[None]:
    """Compiles all kernels side by side, once; meanwhile torch's idle threads shall not burn the processor time."""
    build_each(SOURCES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(runs: list[Run]) -> None:
    assert runs
    failures = [text for text in run_parallel(failure, runs) if text]
    assert not failures, f"{len(failures)} of {len(runs)} runs failed\n" + "\n".join(failures[:20])


def test_there_are_kernels() -> None:
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_variant_is_right_and_free_of_hazards(source: Path) -> None:
    check(quick_runs(source))


@pytest.mark.full
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_full_product(source: Path) -> None:
    check(full_runs(source))


@pytest.mark.parametrize("delivery", (LAZY, EAGER, RANDOM))
def test_a_case_of_512_takes_at_most_half_a_second(delivery: str) -> None:
    """The figure of the emulation: seqlen 512, head_dim 128, one head."""
    problem = Problem(512, 512)
    for source in SOURCES:
        kernel = load(source)
        variant = next(row for row in kernel.library.variants if row.head_dim == 128 and not row.causal)
        inputs = operands(problem, variant.dtype, 128, False)
        times_s = []
        for seed in range(3):  # processor time, the best of three: other processes share the machine
            start = time.process_time()
            assert launch(kernel, variant, problem, inputs, False, Schedule(delivery, seed)).clean
            times_s.append(time.process_time() - start)
        assert min(times_s) <= 0.5, f"{variant.key}: {times_s}"
