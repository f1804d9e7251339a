"""The quantize kernel, emulated, against the reference quantizer: every stored byte and every descale, bit for bit.

`make test` runs every dtype, head_dim, scaling and rotation on some shapes, inputs and deliveries, all of which come
up; the marker `full` runs the whole product.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
import torch
from emulator import DELIVERIES, EmulatedKernel, Schedule
from parallel import run_parallel
from quantize_problem import (
    INPUTS,
    SOURCE_FILE,
    QuantizeProblem,
    expected,
    launch,
    load_quantizer,
    make_operands,
    rearranged,
)

from attnbench.hopper.build import build_emulated
from attnbench.hopper.library import transpose_values
from attnbench.hopper.quantizer import Scheme

SCALINGS = (
    ("none", 128), ("tensor", 128), ("head", 128), ("block", 128), ("block", 32), ("block", 64), ("block", 256),
    ("block", 384),
)  # fmt: skip
SCHEMES = tuple(Scheme(*scaling, hadamard, seed=5) for scaling in SCALINGS for hadamard in (False, True))
VARIANTS = tuple(itertools.product(("fp16", "bf16"), (64, 128, 256)))
SHAPES = (
    {"seqlen_q": 130, "seqlen_k": 300},  # tails, GQA
    {"seqlen_q": 1, "seqlen_k": 1, "num_heads": 1},
    {"seqlen_q": 257, "seqlen_k": 128, "batch": 2, "num_heads": 4, "num_heads_kv": 2, "layout": "bhsd"},
    {"seqlen_q": 16, "seqlen_k": 15, "num_heads": 3, "num_heads_kv": 3, "layout": "bhsd"},  # one position of padding
    {"seqlen_q": 129, "seqlen_k": 641, "num_heads": 1},  # more tiles than CTAs and stages
)


@dataclass(frozen=True)
class Run:
    problem: QuantizeProblem
    schedule: Schedule


@lru_cache(maxsize=1)
def kernel() -> EmulatedKernel:
    return load_quantizer()


@pytest.fixture(scope="module", autouse=True)
def built() -> Iterator[None]:
    build_emulated(SOURCE_FILE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def failure(run: Run) -> str:
    """ "" or what went wrong, with all that is needed to see it again."""
    operands = make_operands(run.problem)
    outcome = launch(kernel(), run.problem, operands, expected(run.problem, *operands), run.schedule)
    return "" if outcome.clean else f"{run.problem} [{run.schedule}]: {outcome}"


def quick_runs() -> list[Run]:
    draw = random.Random(3)  # evenly enough that everything below meets everything; the test sees to it
    runs = []
    for i, ((dtype, head_dim), scheme) in enumerate(itertools.product(VARIANTS, SCHEMES)):
        shape, inputs, delivery = draw.choice(SHAPES), draw.choice(list(INPUTS)), draw.choice(DELIVERIES)
        schedule = Schedule(delivery, seed=i, multiprocessors=1 + i % 2, resident_ctas=1 + i // 3 % 2)
        runs.append(Run(QuantizeProblem(head_dim, dtype, scheme, **shape, inputs=inputs), schedule))
    return runs


def full_runs() -> list[Run]:
    product = itertools.product(VARIANTS, SCHEMES, SHAPES, INPUTS, DELIVERIES)
    return [
        Run(QuantizeProblem(head_dim, dtype, scheme, **shape, inputs=inputs),
            Schedule(delivery, seed=i, multiprocessors=1 + i % 3, resident_ctas=1 + i % 2))
        for i, ((dtype, head_dim), scheme, shape, inputs, delivery) in enumerate(product)
    ]  # fmt: skip


def check(runs: list[Run]) -> None:
    failures = [text for text in run_parallel(failure, runs, chunk=8) if text]
    assert runs and not failures, f"{len(failures)} of {len(runs)} runs failed\n" + "\n".join(failures[:20])


def test_every_byte_and_descale_is_the_references() -> None:
    runs = quick_runs()
    problems = [run.problem for run in runs]
    assert {(p.dtype, p.head_dim, p.scheme) for p in problems} == {(*v, s) for v in VARIANTS for s in SCHEMES}
    assert len({(p.scheme.scaling, p.inputs) for p in problems}) == 4 * len(INPUTS)
    assert len({(p.head_dim, p.seqlen_k) for p in problems}) == 3 * len(SHAPES)
    assert len({(run.problem.head_dim, run.schedule.delivery) for run in runs}) == 3 * len(DELIVERIES)
    check(runs)


@pytest.mark.full
def test_the_full_product() -> None:
    check(full_runs())


def test_a_wrong_bit_is_noticed() -> None:
    """The comparison itself: another seed of the signs, one bit of a byte, of a descale."""
    problem = QuantizeProblem(64, "bf16", Scheme("block", 128, True, seed=1))
    operands = make_operands(problem)
    want = expected(problem, *operands)
    assert launch(kernel(), problem, operands, want, Schedule()).clean
    other = expected(replace(problem, scheme=Scheme("block", 128, True, seed=2)), *operands)
    assert "values differ" in launch(kernel(), problem, operands, other, Schedule()).wrong
    for field in ("q", "k", "v_transposed", "q_descale", "k_descale", "v_descale"):
        flipped = getattr(want, field).clone()
        flipped.view(torch.uint8).view(-1)[0] ^= 1
        outcome = launch(kernel(), problem, operands, replace(want, **{field: flipped}), Schedule())
        assert outcome.wrong.startswith(f"{field}[0, 0") and "1 values differ" in outcome.wrong


@pytest.mark.parametrize("seqlen", [1, 15, 16, 17, 50])
def test_values_are_rearranged_as_the_interface_says(seqlen: int) -> None:
    v = torch.randint(0, 127, (2, seqlen, 3, 8), dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert torch.equal(transpose_values(v).view(torch.uint8), rearranged(v).view(torch.uint8))


def test_two_launches_give_the_same_bits_in_any_order_of_ctas() -> None:
    """The largest magnitudes are collected by atomics: the order in which CTAs come must not show."""
    problem = QuantizeProblem(64, "bf16", Scheme("tensor", hadamard=True), seqlen_q=600, seqlen_k=500, num_heads=4)
    operands = make_operands(problem)
    want = expected(problem, *operands)
    for seed in range(4):
        schedule = Schedule("random", seed, multiprocessors=2, resident_ctas=4)
        assert launch(kernel(), problem, operands, want, schedule).clean
