"""The claims as data: papers, what each says and where, which suite or count tests it, how its result is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LEDGER = Path(__file__).with_name("claims.yaml")


@dataclass(frozen=True, slots=True)
class Claim:
    """One headline claim.

    suite, only: the run that tests it, as `attnbench run` takes them; counted: the fields of `kernel.counted` that do.
    comparable: whether it can be tested here, or why not. measure: "kind" and what that one of `measures` needs; None
    where nothing here can compute it.
    """

    claim: str
    source: str
    comparable: str
    suite: str | None = None
    only: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    measure: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Paper:
    """cite: authors, where and when it was published, arXiv's number."""

    name: str
    cite: str
    claims: tuple[Claim, ...]


def papers() -> tuple[Paper, ...]:
    """In the order of the file."""
    rows = yaml.safe_load(LEDGER.read_text("utf-8"))["papers"]
    return tuple(Paper(row["name"], row["cite"], tuple(map(_claim, row["claims"]))) for row in rows)


def _claim(row: Mapping[str, Any]) -> Claim:
    return Claim(**{**row, "only": tuple(row.get("only", ())), "counted": tuple(row.get("counted", ()))})
