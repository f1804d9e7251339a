"""A floor: how fast a backend has to be beside another one, or beside a GEMM, in the words of a suite or an option."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from attnbench.case import Case
from attnbench.errors import UserError, suggest

# What stands for the run's own matrix product, which its sentinels time.
GEMM = "gemm"
GRAMMAR = "NAME >= FACTOR x NAME [geomean] [where FIELD=VALUE,...]"
EXAMPLE = "hopper >= 1.0 x fa3"
_PATTERN = re.compile(
    r"\s*(?P<backend>\S+)\s*>=\s*(?P<factor>[0-9.]+)\s*x\s+(?P<over>\S+)(?P<geomean>\s+geomean)?"
    r"(?:\s+where\s+(?P<where>\S.*?))?\s*"
)
FIELDS = ("seqlen", *(one.name for one in fields(Case)))


class FloorError(UserError, ValueError):
    """No floor; the message says what is wrong with the text, and what one looks like."""


@dataclass(frozen=True, slots=True)
class Floor:
    """`backend` does at least `factor` times the rate of `over` (a backend, or GEMM): on every case where every field
    of `where` has one of its values, or, with `geomean`, on the geometric mean over these."""

    backend: str
    factor: float
    over: str
    geomean: bool = False
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def takes(self, case: Case) -> bool:
        return all(_text(case, name) in values for name, values in self.where.items())

    def __str__(self) -> str:
        where = ",".join(f"{name}={','.join(sorted(values))}" for name, values in self.where.items())
        words = (f"{self.backend} >= {self.factor:g} x {self.over}", "geomean" if self.geomean else "")
        return " ".join(filter(None, (*words, f"where {where}" if where else "")))


def parse_floor(text: str) -> Floor:
    """Raises FloorError."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise FloorError(f'"{text}" is no floor; write {GRAMMAR}, such as "{EXAMPLE}"')
    try:
        factor = float(found["factor"])
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise FloorError(f'"{text}": the factor {found["factor"]} is no number above 0')
    if found["backend"] == GEMM:
        raise FloorError(f'"{text}": {GEMM} is what backends are held against; write it on the right')
    if found["backend"] == found["over"]:
        raise FloorError(f'"{text}" holds {found["over"]} against itself; name another backend, or {GEMM}')
    return Floor(found["backend"], factor, found["over"], bool(found["geomean"]), _where(text, found["where"] or ""))


def _where(text: str, given: str) -> dict[str, frozenset[str]]:
    """`dtype=bf16,fp16,causal=true`: a part without a sign is one more value of the field before it."""
    values: dict[str, list[str]] = {}
    name = ""
    for part in filter(None, map(str.strip, given.split(","))):
        before, sign, value = part.rpartition("=")
        name = before.strip() if sign else name
        if name not in FIELDS:
            raise FloorError(f'"{text}": no case field "{name or part}"{suggest(name or part, FIELDS)}')
        values.setdefault(name, []).append(_plain(value.strip()))
    return {name: frozenset(found) for name, found in values.items()}


def _plain(value: str) -> str:
    """A size as a suite may write it, 4k, in digits."""
    return str(int(value[:-1]) * 1024) if re.fullmatch(r"[0-9]+k", value) else value.lower()


def _text(case: Case, name: str) -> str:
    if name == "seqlen":
        return str(case.seqlen_q) if case.seqlen_q == case.seqlen_k else ""
    return str(getattr(case, name)).lower()


def unknown(floors: Iterable[Floor], backends: Iterable[str]) -> str:
    """Of the first floor that names a backend which is not among these: what is wrong with it; "" where none does."""
    known = list(backends)
    for one in floors:
        for name in (one.backend, one.over):
            if name != GEMM and name not in known:
                return f'"{one}": the run has no backend "{name}"{suggest(name, known)}'
    return ""
