"""A run of generated cases: the smallest one that fails is made smaller, as long as the same rule fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from attnbench.case import DEFAULTS, FIELDS, FP8_FIELDS, Case, CaseError, forward_flops
from attnbench.messages import Ready
from attnbench.records.record import Record
from attnbench.run.runner import Request, Stage, choose_backends
from attnbench.suite.generate import NAME
from attnbench.suite.suite import Job

# Cases that are tried to make one smaller, and seconds that this may take: a backend that fails everywhere is small at
# once, and a slow one must not hold the run up.
ATTEMPTS = 60
BUDGET_S = 60.0
# One past a multiple of these is the shortest length with the same number of tiles.
TILES = (64, 16)
# What would cost a time-out or the machine's memory each time, or is the machine's own.
COSTLY = ("timeout", "oom", "unstable")
# Backends of which a failing case is shrunk.
BACKENDS = 3


@dataclass(frozen=True)
class Shrunk:
    """The smallest case found that fails as `first` does, and how many further cases were posed for it."""

    first: Record
    smallest: Record
    attempts: int


class Shrinking:
    """The course of a run with generated cases. found: once it is over, a case for each backend that failed."""

    further: tuple[str, ...] = ()

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.found: list[Shrunk] = []
        self._now = now

    def backends(self, request: Request, ready: Ready) -> tuple[str, ...]:
        return choose_backends(request, ready)

    def stages(self, jobs: Sequence[Job], backends: Sequence[str], records: Sequence[Record]) -> Iterator[Stage]:
        yield jobs, backends
        generated = {job.case.key: job for job in jobs if job.group == NAME}
        failing: dict[str, Record] = {}
        for record in sorted(records, key=lambda record: forward_flops(record.case)):
            if record.case_key in generated and record.status in ("incorrect", "error") and record.kind not in COSTLY:
                failing.setdefault(record.backend, record)
        for record in list(failing.values())[:BACKENDS]:
            yield from self._shrink(generated[record.case_key], record, records)

    def _shrink(self, job: Job, first: Record, records: Sequence[Record]) -> Iterator[Stage]:
        """Takes the first simpler case that fails alike, and goes on from there, until none does."""
        best, attempts, end_s = first, 0, self._now() + BUDGET_S
        tried = {first.case}
        going = True
        while going:
            going = False
            for case in simpler(best.case):
                if case in tried:
                    continue
                if attempts == ATTEMPTS or self._now() > end_s:
                    break
                tried.add(case)
                attempts += 1
                before = len(records)
                yield [replace(job, case=case)], [first.backend]
                if any(alike(first, record) for record in records[before:]):
                    best, going = records[-1], True
                    break
        self.found.append(Shrunk(first, best, attempts))


def alike(first: Record, other: Record) -> bool:
    """Whether the other fails as the first does: by one of its rules, or by the same kind of error."""
    if first.status != other.status or first.kind != other.kind:
        return False
    if first.accuracy is None or other.accuracy is None:
        return first.accuracy is other.accuracy
    return first.accuracy.failures[0].rule in {check.rule for check in other.accuracy.failures}


def simpler(case: Case) -> Iterator[Case]:
    """Cases with less to them, the most promising first: defaults, one head, one batch element, short lengths."""
    changes: list[dict[str, object]] = [
        {name: DEFAULTS[name]} for name in ("inputs", "softmax_scale", "mask_alignment", *FP8_FIELDS)
    ]
    changes += [
        {"batch": 1, "num_heads": 1, "num_heads_kv": 1, "head_dim_v": case.head_dim},
        {"batch": 1},
        {"num_heads": 1, "num_heads_kv": 1},
        {"num_heads": case.num_heads // case.num_heads_kv, "num_heads_kv": 1},
        {"head_dim_v": case.head_dim},
        {"causal": False},
    ]
    changes += [{"head_dim": size, "head_dim_v": size} for size in (16, 32, 64) if size < case.head_dim]
    for least in (1, 2):
        changes += [{"seqlen_q": least, "seqlen_k": least}, {"seqlen_q": least}, {"seqlen_k": least}]
    for name in ("seqlen_k", "seqlen_q"):
        length = getattr(case, name)
        past_tiles = ((length - 1) // tile * tile + 1 for tile in TILES)
        changes += [{name: shorter} for shorter in (length // 4, length // 2, *past_tiles, length - 1)]
    for change in changes:
        values = {name: getattr(case, name) for name in FIELDS}
        if all(values[name] == value for name, value in change.items()):
            continue
        try:
            made = Case.make(**{**values, **change})
        except CaseError:
            continue
        if forward_flops(made) <= forward_flops(case) or set(change) <= {"causal"}:
            yield made
