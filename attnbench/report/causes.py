"""Why records failed, before any table: alike failures of a backend as one, with the cause and the smallest case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from attnbench.case import Case
from attnbench.markdown import numberless
from attnbench.records.record import LIKELY_CAUSE, Record
from attnbench.units import count

FAILED = ("incorrect", "error")
# What is wrong rather than absent.
WRONG = ("incorrect", "hazard")


@dataclass(frozen=True, slots=True)
class Failure:
    """Records of one backend (a series of a report) that failed in one way: its kind, or `incorrect`."""

    series: str
    kind: str
    records: tuple[Record, ...]

    @property
    def smallest(self) -> Record:
        """The one with the least to compute: the quickest to look at again."""
        return min(self.records, key=lambda record: size(record.case))

    @property
    def causes(self) -> list[tuple[str, int]]:
        """Likely causes of wrong results, what happened in errors, each with how many records it is of; the most
        frequent first. Causes that differ in their numbers only are one; "" where none suggests itself.
        """
        groups: dict[str, list[str]] = {}
        for record in self.records:
            cause = record.likely_cause if record.status == "incorrect" else first_line(record.reason)
            groups.setdefault(numberless(cause), []).append(cause)
        return sorted(((members[0], len(members)) for members in groups.values()), key=lambda pair: -pair[1])

    @property
    def where(self) -> str:
        return f"{self.kind} in {count(len(self.records), 'case')}"


def failures(pairs: Iterable[tuple[str, Record]]) -> list[Failure]:
    """(series, record) by what failed and how; wrong results before errors, then the most frequent first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for series, record in pairs:
        if record.status in FAILED:
            groups.setdefault((series, record.kind or record.status), []).append(record)
    found = [Failure(series, kind, tuple(records)) for (series, kind), records in groups.items()]
    return sorted(found, key=lambda failure: (failure.kind not in WRONG, -len(failure.records)))


def size(case: Case) -> tuple[int, int]:
    """For an order of cases by how much they hold."""
    return case.batch * case.num_heads * case.seqlen_q * case.seqlen_k, case.head_dim


def first_line(text: str) -> str:
    """What happened; the lines after it are the tail of the output."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def in_short(reason: str, most: int = 160) -> str:
    """The first line of a reason with its likely cause ahead of the figures; cut at its end, never before the cause."""
    what, _, cause = first_line(reason).partition(LIKELY_CAUSE)
    text = f"{cause}: {what}" if cause else what
    return cut(text, max(most, len(cause) + len(": …") if cause else 0))


def cut(text: str, most: int) -> str:
    """At most so many letters; where there were more, it ends with a whole word and an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    kept = text[: most - 2]
    if text[most - 2] != " " and " " in kept:
        kept = kept.rpartition(" ")[0]
    return f"{kept.rstrip()} …"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Series that are unsupported for one reason in as many cases each. reason: the most frequent; others: how many
    further reasons there are."""

    series: tuple[str, ...]
    cases: int
    of: int
    reason: str
    others: int

    @property
    def where(self) -> str:
        """`5 of 34 cases`."""
        if self.cases < self.of:
            return f"{self.cases:,} of {self.of:,} cases"
        return f"all {self.of:,} cases" if self.of > 1 else "1 case"

    @property
    def why(self) -> str:
        return self.reason + (f" (and {count(self.others, 'further reason')})" if self.others else "")


def unsupported(pairs: Iterable[tuple[str, Record]]) -> list[Unsupported]:
    """Each series once, in order of appearance; of one that has several reasons, the most frequent."""
    cases: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for series, record in pairs:
        cases[series] += 1
        if record.status == "unsupported":
            reasons.setdefault(series, Counter())[first_line(record.reason)] += 1
    groups: dict[tuple[str, int, int, int], list[str]] = {}
    for series, found in reasons.items():
        reason = found.most_common(1)[0][0]
        groups.setdefault((reason, found.total(), cases[series], len(found) - 1), []).append(series)
    return [Unsupported(tuple(names), number, of, reason, others)
            for (reason, number, of, others), names in groups.items()]  # fmt: skip
