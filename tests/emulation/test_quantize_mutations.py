"""Every barrier, wait, copy and exchange of the quantize kernel is needed, and missed when it is broken.

As test_mutations.py for the forward kernels, but judged bit by bit; shuffles are broken too, since here they carry
data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import pytest
from emulator import EAGER, LAZY, RANDOM, EmulatedKernel, Schedule, Site
from mutation import APPLICABLE, UNTOUCHED
from parallel import run_parallel
from problem import Outcome
from quantize_problem import QuantizeProblem, expected, launch, load_quantizer, make_operands

from attnbench.hopper.quantizer import Scheme

KINDS = {**APPLICABLE, "shuffle": ("drop",)}
# One pass and two, rotated: between them every line of the kernels runs. Several tiles a CTA, tails, GQA.
SUBJECTS = (
    QuantizeProblem(128, "bf16", Scheme("block", 64, True), seqlen_q=450, seqlen_k=600),
    QuantizeProblem(64, "fp16", Scheme("head", hadamard=True), seqlen_q=700, seqlen_k=900),
)
SCHEDULES = (
    Schedule(LAZY, 1, multiprocessors=1),
    Schedule(EAGER, 2, multiprocessors=1),
    Schedule(RANDOM, 3, multiprocessors=1),
    Schedule(RANDOM, 4, multiprocessors=1, resident_ctas=2),
)


@dataclass(frozen=True)
class Mutation:
    subject: int
    primitive: str
    place: str
    kind: str

    def __str__(self) -> str:
        return f"{SUBJECTS[self.subject]}: {self.kind} {self.primitive} at {self.place}"


@lru_cache(maxsize=1)
def kernel() -> EmulatedKernel:
    return load_quantizer()


@cache
def _problem(subject: int):
    operands = make_operands(SUBJECTS[subject])
    return operands, expected(SUBJECTS[subject], *operands)


def _run(subject: int, schedule: Schedule) -> Outcome:
    return launch(kernel(), SUBJECTS[subject], *_problem(subject), schedule)


def _sites() -> dict[tuple[str, str], Site]:
    return {(site.primitive, site.place): site for site in kernel().emulator.sites()}


def mutations(subject: int) -> list[Mutation]:
    before = {key: site.calls for key, site in _sites().items()}
    for schedule in SCHEDULES:
        outcome = _run(subject, schedule)
        assert outcome.clean, f"{SUBJECTS[subject]} fails unbroken [{schedule}]: {outcome}"
    ran = (site for key, site in _sites().items() if site.calls > before.get(key, 0))
    return [
        Mutation(subject, site.primitive, site.place, kind)
        for site in ran
        if site.primitive in KINDS
        for kind in KINDS[site.primitive]
    ]


def judge(mutation: Mutation) -> tuple[Mutation, bool, str]:
    """(mutation, whether it changed any call, what noticed it or "")."""
    key = (mutation.primitive, mutation.place)
    if key not in _sites():
        _run(mutation.subject, SCHEDULES[0])  # a fresh process numbers its call sites
    applied = False
    for schedule in SCHEDULES:
        broken = replace(schedule, mutation=mutation.kind, mutation_site=_sites()[key].index)
        outcome = _run(mutation.subject, broken)
        applied = applied or kernel().emulator.statistics()["mutated"] > 0
        if not outcome.clean:
            return mutation, True, outcome.hazards[0].kind if outcome.hazards else "result"
    return mutation, applied, ""


@pytest.fixture(scope="module")
def judged() -> list[tuple[Mutation, bool, str]]:
    found = [mutation for subject in range(len(SUBJECTS)) for mutation in mutations(subject)]
    return run_parallel(judge, found, chunk=2)


def test_every_mutation_is_noticed(judged) -> None:
    assert len(judged) > 20
    survivors = [str(mutation) for mutation, applied, noticed in judged if applied and not noticed]
    assert not survivors, f"{len(survivors)} mutations survive\n" + "\n".join(survivors)


def test_what_is_broken_covers_the_kernel(judged) -> None:
    broken = {(mutation.primitive, mutation.kind) for mutation, applied, _ in judged if applied}
    assert broken >= {
        ("cta_sync", "drop"), ("shuffle", "drop"), ("mbarrier_try_wait_parity", "drop"), ("tma_load_4d", "coordinate"),
        ("mbarrier_try_wait_parity", "flip_parity"), ("mbarrier_arrive_expect_tx", "less"), ("mbarrier_init", "more"),
    }  # fmt: skip
    unknown = {site.primitive for site in kernel().emulator.sites()} - set(KINDS) - UNTOUCHED
    assert not unknown
    by = {noticed for _, _, noticed in judged}
    assert {"race", "result"} <= by
