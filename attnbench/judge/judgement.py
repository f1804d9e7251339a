"""The answer: a verdict with what led to it, as one JSON object of a published schema, and its exit status."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field

from attnbench.settings import StrictModel

Verdict = Literal["promoted", "correct", "slower", "incorrect", "error", "undecided"]
MEANS = {
    "promoted": "right in every case, and faster than the incumbent by more than the noise floor",
    "correct": "right in every case; not faster, and not slower, by more than the noise floor, or never timed",
    "slower": "right in every case, and slower than the incumbent by more than the noise floor",
    "incorrect": "a result is wrong, or a kernel has a hazard",
    "error": "it does not import, raised, crashed, hung, broke the contract, or took no case; or the question is wrong",
    "undecided": "right as far as it was judged; whether it is faster cannot be told",
}
# JSON has no NaN.
NotFinite = Literal["NaN", "Infinity", "-Infinity"]


class Failed(StrictModel):
    """A case that failed."""

    case_key: str
    rule: str | None = Field(description="the rule that failed; null where no result could be judged")
    value: float | NotFinite | None
    limit: float | NotFinite | None
    place: str = Field(description="where it is worst: batch, head, row; empty where the rule has no place")
    cause: str = Field(description="the likely cause, or what was raised; empty where none suggests itself")
    kind: str = Field(description="incorrect, or an error's kind, such as crash, timeout, exception, hazard")


class Speedup(StrictModel):
    """How many times as fast as the incumbent: the geometric mean over the timed cases, with its 95 % interval."""

    against: str
    geomean: float
    low: float
    high: float


class Judgement(StrictModel):
    """What `attnbench judge --json` prints."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    candidate: str
    suite: str
    trust: Literal["trusted", "untrusted"]
    verdict: Verdict = Field(description="; ".join(f"{name}: {meaning}" for name, meaning in MEANS.items()))
    reason: str
    failed: tuple[Failed, ...] = Field(description="the cases that failed; judging stops at the first")
    speedup: Speedup | None
    next: str | None = Field(description="the smallest failing case, as a command that repeats it")
    run: str | None = Field(description="the run directory; null where nothing ran")
    seconds: float

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2)

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class Judged:
    """A judgement, and what a terminal shows beside it: the exit status, what else is to be known, the error map."""

    judgement: Judgement
    status: int
    notes: tuple[str, ...] = ()
    error_map: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether nothing ran."""
        return self.judgement.run is None


def json_number(value: float) -> float | NotFinite:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a judgement."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "attnbench judgement"}
    schema = Judgement.model_json_schema(by_alias=True, mode="serialization")
    return head | {key: value for key, value in schema.items() if key != "title"}
