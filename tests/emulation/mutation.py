"""Mutation tests of kernels: break one call of a primitive at a time, and see whether the emulation notices.

The call sites come from an unbroken run, so nothing in a kernel prepares for this. A mutation is killed by a reported
hazard or by a wrong result under any of the trials; one that survives them all must stand in benign_mutations.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from emulator import EAGER, LAZY, RANDOM, EmulatedKernel, Schedule, Site
from fp8_problem import operands
from parallel import load
from problem import Outcome, Problem, launch

from attnbench.hopper.toolchain import KERNELS

_SHARED_A = ("a_start", "a_step", "a_stride", "a_leading", "a_swizzle")
_SHARED_B = ("b_start", "b_step", "b_stride", "b_leading", "b_swizzle")
# What can be done to a call of each primitive. Descriptor fields that the layout does not look at change nothing and
# are not counted.
APPLICABLE = {
    "mbarrier_init": ("drop", "less", "more"),
    "fence_mbarrier_init": ("drop",),
    "mbarrier_arrive": ("drop", "twice", "early"),
    "mbarrier_arrive_cluster": ("drop", "twice", "early"),
    "mbarrier_arrive_expect_tx": ("drop", "less", "more"),
    "mbarrier_try_wait_parity": ("drop", "flip_parity"),
    "tma_load_4d": ("drop", "coordinate"),
    "tma_load_multicast_4d": ("drop", "coordinate", "less"),
    "tma_store_4d": ("drop", "coordinate"),
    "bulk_commit_group": ("drop",),
    "bulk_wait_group_read": ("drop", "laxer"),
    "bulk_wait_group": ("drop", "laxer"),
    "wgmma_fence": ("drop",),
    "wgmma_ss": (*_SHARED_A, *_SHARED_B),
    "wgmma_rs": _SHARED_B,
    "wgmma_commit_group": ("drop",),
    "wgmma_wait_group": ("drop", "laxer"),
    "barrier_sync": ("drop", "less", "more"),
    "barrier_arrive": ("drop", "less", "more", "twice", "early"),
    "cta_sync": ("drop",),
    "cluster_arrive": ("drop", "twice", "early"),
    "cluster_wait": ("drop",),
    "map_to_cta": ("drop",),
    "warp_sync": ("drop",),
    "fence_proxy_async_shared": ("drop",),
    "setmaxnreg_inc": ("drop",),
    "setmaxnreg_dec": ("drop",),
}
# Neither a synchronization nor an address: nothing to break.
UNTOUCHED = {
    "shuffle", "any_sync", "elect_one", "stmatrix", "store_shared", "load_shared", "store_global", "use_of_value",
    "thread_exit",
}  # fmt: skip

# One multiprocessor: several tiles in one CTA. Several laps of every ring, a tail, two heads on one kv head.
LONG = Problem(200, 700, num_heads=2, num_heads_kv=1)
SHORT = Problem(520, 150, num_heads=1)
TRIALS = (
    (LONG, Schedule(LAZY, 1, multiprocessors=1)),
    (LONG, Schedule(EAGER, 2, multiprocessors=1)),
    (SHORT, Schedule(LAZY, 3, multiprocessors=1)),
    (LONG, Schedule(RANDOM, 4, multiprocessors=1)),
    (SHORT, Schedule(RANDOM, 5, multiprocessors=2, resident_ctas=2)),
    (SHORT, Schedule(EAGER, 6, multiprocessors=1)),
    (LONG, Schedule(RANDOM, 7, multiprocessors=1)),
    (SHORT, Schedule(RANDOM, 8, multiprocessors=1)),
)


@dataclass(frozen=True)
class Subject:
    """A variant to break."""

    source: Path
    schedule: str
    dtype: str
    head_dim: int
    causal: bool

    def __str__(self) -> str:
        return f"{self.source.stem}[{self.schedule}] {self.dtype} d{self.head_dim} causal={self.causal}"


@dataclass(frozen=True)
class Mutation:
    subject: Subject
    primitive: str
    place: str  # file:line
    window: tuple[str, str, str]  # the line before, that line, the line after
    kind: str

    @property
    def site(self) -> CallSite:
        return self.primitive, self.place

    def __str__(self) -> str:
        return f"{self.kind} {self.primitive} at {self.place}: {self.window[1]}"


@dataclass(frozen=True)
class Result:
    """killed_by: the first hazard's kind, "result" for a wrong answer, "" for a survivor. applied: whether it changed
    any call at all."""

    mutation: Mutation
    applied: bool
    killed_by: str
    detail: str
    trials: int


# The schedules whose call sites are all broken; others share most of them (`plans`).
SCHEDULES = {"fwd_overlap": ("overlap", "no_overlap"), "fwd_fp8": ("fp8_two_level",)}
# Two levels at head_dim 256 have a main loop of their own.
MORE_SUBJECTS = {"fwd_fp8": (("fp8_two_level", "e4m3", 256, True),)}
# Enough to pass every call site of a variant: several tiles and laps, tails, rows that see no key.
PASSES = (0, 2)
CallSite = tuple[str, str]  # primitive, file:line


@dataclass(frozen=True)
class Plan:
    """A subject, and at which of its call sites it is to be broken."""

    subject: Subject
    sites: frozenset[CallSite]


def candidates(source: Path) -> list[Subject]:
    """Every variant but for the dtype, which changes no call site. The first one of each schedule is the one whose
    sites are all broken: causal and head_dim 128 where there is such a one."""
    found = {}
    for row in load(source).library.variants:
        for causal in (True, False) if row.causal is None else (row.causal,):
            key = (row.schedule, row.head_dim, causal)
            if key not in found or row.dtype == "fp16":
                found[key] = Subject(source, row.schedule, row.dtype, row.head_dim, causal)
    return sorted(found.values(), key=lambda one: (one.head_dim != 128, not one.causal))


def passed_sites(subject: Subject) -> frozenset[CallSite]:
    """The call sites of `subject` that can be broken."""
    kernel = load(subject.source)
    before = {key: site.calls for key, site in _sites(kernel).items()}
    for problem, schedule in (TRIALS[i] for i in PASSES):
        outcome = _run(subject, problem, schedule)
        assert outcome.clean, f"{subject} fails unbroken, {problem} [{schedule}]: {outcome}"
    passed = {key: site for key, site in _sites(kernel).items() if site.calls != before.get(key, 0)}
    return frozenset(key for key, site in passed.items() if site.primitive not in UNTOUCHED)


def plans(passed: dict[Subject, frozenset[CallSite]]) -> list[Plan]:
    """Of one file: every site of one variant of each of its SCHEDULES and of MORE_SUBJECTS, then further variants for
    the sites that those do not pass, until none is left. Of these the one with the fewest sites comes first: what
    synchronizes less hides less."""
    chosen: dict[object, Plan] = {}
    for subject, sites in passed.items():
        stem, own = subject.source.stem, (subject.schedule, subject.dtype, subject.head_dim, subject.causal)
        if own in MORE_SUBJECTS.get(stem, ()):
            chosen[own] = Plan(subject, sites)
        elif subject.schedule in SCHEDULES.get(stem, (subject.schedule,)):
            chosen.setdefault(subject.schedule, Plan(subject, sites))
    found = list(chosen.values())
    left = frozenset().union(*passed.values()) - frozenset().union(*(plan.sites for plan in found))
    while left:
        fitting = [subject for subject, sites in passed.items() if sites & left]
        best = min(fitting, key=lambda subject: len(passed[subject]))
        found.append(Plan(best, passed[best] & left))
        left -= passed[best]
    return found


def _run(subject: Subject, problem: Problem, schedule: Schedule) -> Outcome:
    kernel = load(subject.source)
    wanted = (subject.schedule, subject.dtype, subject.head_dim, subject.causal)
    variant = kernel.library.find(*wanted, subject.dtype == "e4m3") or kernel.library.find(*wanted, False)
    assert variant is not None
    problem = replace(problem, scaling="block") if variant.takes_blocks else problem
    inputs = operands(problem, subject.dtype, subject.head_dim, subject.causal)
    return launch(kernel, variant, problem, inputs, subject.causal, schedule)


def _sites(kernel: EmulatedKernel) -> dict[tuple[str, str], Site]:
    return {(site.primitive, site.place): site for site in kernel.emulator.sites()}


def _window(site: Site) -> tuple[str, str, str]:
    path = next(path for path in KERNELS.rglob(site.file) if "emulation" not in path.parts)
    lines = ["", *(line.strip() for line in path.read_text().splitlines()), ""]
    return lines[site.line - 1], lines[site.line], lines[site.line + 1]


def mutations(plan: Plan) -> list[Mutation]:
    """Every way to break the subject at its sites; asserts that it is sound as it stands."""
    kernel, subject = load(plan.subject.source), plan.subject
    for problem, schedule in TRIALS:
        outcome = _run(subject, problem, schedule)
        assert outcome.clean, f"{subject} fails unbroken, {problem} [{schedule}]: {outcome}"
    sites = [site for key, site in _sites(kernel).items() if key in plan.sites]
    return [
        Mutation(subject, site.primitive, site.place, _window(site), kind)
        for site in sites
        for kind in APPLICABLE[site.primitive]
    ]


def judge(mutation: Mutation) -> Result:
    """Tries a mutation until something notices it."""
    subject = mutation.subject
    kernel = load(subject.source)
    key = mutation.site
    if key not in _sites(kernel):
        passed_sites(subject)  # a fresh process numbers its call sites
    applied = False
    for count, (problem, schedule) in enumerate(TRIALS, start=1):
        if mutation.kind == "early":
            _run(subject, problem, schedule)  # records which wait each arrive follows
        broken = replace(schedule, mutation=mutation.kind, mutation_site=_sites(kernel)[key].index)
        outcome = _run(subject, problem, broken)
        applied = applied or kernel.emulator.statistics()["mutated"] > 0
        if not outcome.clean:
            by = outcome.hazards[0].kind if outcome.hazards else "result"
            return Result(mutation, True, by, str(outcome)[:300], count)
        if count == 3 and not applied:
            break  # a descriptor field that the layout ignores
    return Result(mutation, applied, "", "", count)


@dataclass(frozen=True)
class Benign:
    """A mutation that may survive, and why. kernel: pattern of "file[schedule]"; line, before, after: patterns to be
    found in the source line and its neighbours. head_dim: 0 for every one."""

    kernel: str
    primitive: str
    line: str
    kinds: tuple[str, ...]
    reason: str
    before: str = ""
    after: str = ""
    head_dim: int = 0

    def covers(self, mutation: Mutation) -> bool:
        name = f"{mutation.subject.source.stem}[{mutation.subject.schedule}]"
        return (
            re.fullmatch(self.kernel, name) is not None
            and self.primitive == mutation.primitive
            and mutation.kind in self.kinds
            and self.head_dim in (0, mutation.subject.head_dim)
            and all(map(re.search, (self.before, self.line, self.after), mutation.window))
        )


def load_benign(path: Path = Path(__file__).with_name("benign_mutations.yaml")) -> list[Benign]:
    entries = yaml.safe_load(path.read_text()) or []
    return [Benign(**{**entry, "kinds": tuple(entry["kinds"])}) for entry in entries]
