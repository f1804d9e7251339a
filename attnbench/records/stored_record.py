"""A stored line as a record, checked at the door by pydantic.

Run directories travel. Whatever a line holds, a reader gets values of the types that are written down in
docs/reference/run-directory.md, or what is wrong with it; keys that are unknown here are ignored.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from attnbench.case import FIELDS, Case, LaterCase
from attnbench.errors import UserError
from attnbench.printable import one_line, printable
from attnbench.records.measurement import LARGEST_COUNT, Count, Measurement, RecordError
from attnbench.records.record import SCHEMA, Accuracy, OtherSchema, Record
from attnbench.records.validation import Open, Rate, first_mistake, short, shown

# The records of a case stand near each other in a run; so many cases are built and checked once.
CASES_KEPT = 4096
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NAMES = tuple(_NON_FINITE)


# May be left out, and is never null.
_NO_SEED: Any = None


@dataclass(frozen=True, slots=True)
class _StoredRecord:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=True)

    schema: Literal[1]
    case: dict[str, str | bool | int | float | None]
    case_key: str
    backend: str
    backend_version: str
    status: str
    kind: str | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    measurement: Measurement | None = None
    kernel: dict[str, Any] | None = None
    seed: Count = _NO_SEED

    def made(self, unknown: set[str]) -> Record:
        return Record(
            case=_stored_case(self.case, self.case_key, unknown),
            backend=self.backend,
            backend_version=self.backend_version,
            status=self.status,
            kind=self.kind,
            reason=self.reason,
            warnings=self.warnings,
            accuracy=self.accuracy,
            measurement=self.measurement,
            kernel=None if self.kernel is None else _kernel(self.kernel),
            seed=self.seed,
        )


# May be left out, and is never null.
_ABSENT: Any = Field(default=None)


class _Emulated(Open):
    delivery: Annotated[str, StringConstraints(pattern=r"^[a-z0-9:]+(,[a-z0-9:]+)*$")]
    seed: Count
    checks: Literal["full", "fast"]


class _Interpreted(Open):
    language: str
    version: str
    seed: Count
    mended: bool = _ABSENT
    poison: bool = _ABSENT
    config: str = _ABSENT
    configs: Count = _ABSENT
    stand_ins: list[str] = _ABSENT
    mode: Literal["hlo", "tpu"] = _ABSENT
    x64: bool = _ABSENT
    matmul_precision: str = _ABSENT
    defined: bool = _ABSENT
    undefined: list[str] = _ABSENT
    notes: list[str] = _ABSENT


class _Counted(Open):
    global_read_bytes: Count
    global_write_bytes: Count
    reread: Rate | None
    tensor_flops: Count
    useful_flops: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    exponentials: Count
    barrier_waits: Count


class _Loads(Open):
    compiler: str
    limit: str
    tensor: Rate
    issue: Rate
    mufu: Rate
    alu: Rate
    fp32: Rate
    chain: Rate


class _Kernel(Open):
    """Each backend decides what it tells; what readers look into has to be what they expect, where it is there."""

    name: str | None = None
    emulated: _Emulated = _ABSENT
    interpreted: _Interpreted = _ABSENT
    counted: _Counted | None = None
    loads: _Loads = _ABSENT
    compiler: str | None = None


# Not at import: it takes a fifth of a second, which `list` does not need.
@lru_cache(1)
def _records() -> TypeAdapter[_StoredRecord]:
    return TypeAdapter(_StoredRecord)


def stored_record(line: str | bytes, unknown: set[str] | None = None) -> Record:
    """The record of one stored line; names of keys that are unknown here (`measurement.phases`) join `unknown`.

    Raises RecordError where the line is no record, OtherSchema where it is one of another schema.
    """
    unknown = set() if unknown is None else unknown
    text = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    try:
        return _read(text, unknown)
    except ValidationError as error:
        if not _needs_mending(text):
            raise RecordError(first_mistake(error)) from None
    try:
        return _read(mended(text), unknown)
    except ValidationError as error:
        raise RecordError(first_mistake(error)) from None


def _read(text: bytes, unknown: set[str]) -> Record:
    try:
        stored = _records().validate_json(text, extra="forbid")
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
        for mistake in mistakes:
            if mistake["loc"] == ("schema",):
                found = "missing" if mistake["type"] == "missing" else shown(mistake["input"])
                raise OtherSchema(f"schema {found}; this version reads schema {SCHEMA}") from None
        further = [mistake["loc"] for mistake in mistakes if mistake["type"] in _FURTHER]
        if len(further) < len(mistakes):
            raise
        stored = _records().validate_json(text, extra="ignore")
        unknown.update(one_line(".".join(part for part in loc if isinstance(part, str))) for loc in further)
    return stored.made(unknown)


_FURTHER = ("extra_forbidden", "unexpected_keyword_argument")


def _needs_mending(text: bytes) -> bool:
    """Whether what pydantic refuses may be a half of a surrogate pair, as tails of output end in one, or the name of a
    number that JSON has none of."""
    return b"\\ud" in text.lower() or b'"NaN"' in text or b'Infinity"' in text


def mended(text: bytes) -> bytes:
    """The same JSON with printable texts, and with the numbers themselves. Raises RecordError where it is none."""
    try:
        row = _printable_texts(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {short(str(error))}") from None
    accuracy = row.get("accuracy") if isinstance(row, dict) else None
    if isinstance(accuracy, dict):
        checks = accuracy.get("checks")
        for holder in (accuracy.get("values"), *(checks if isinstance(checks, list) else ())):
            if isinstance(holder, dict):
                holder |= {name: _NON_FINITE[item] for name, item in holder.items() if item in _NAMES}
    return json.dumps(row, ensure_ascii=False).encode()


def _printable_texts(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {one_line(name): _printable_texts(item) for name, item in value.items()}
    return [_printable_texts(item) for item in value] if isinstance(value, list) else value


def _kernel(value: dict[str, Any]) -> dict[str, Any]:
    """Raises RecordError where a figure that readers know has another type."""
    try:
        _Kernel.model_validate(value)
    except ValidationError as error:
        raise RecordError(f"kernel.{first_mistake(error)}") from None
    if "loads" in value and not isinstance(value.get("name"), str):
        raise RecordError("kernel.loads without the kernel's name")
    return value


# NOTE: typed, or a stored 1.0 or true would pass for the 1 that another line has.
@lru_cache(CASES_KEPT, typed=True)
def _case(**fields: Any) -> tuple[Case, str]:
    """The case of these fields, and its key."""
    case = Case.make(**fields)
    return case, case.key


_CASE_KEYS = frozenset(FIELDS)
# What a later version may add to a key: `-window=128-mask=on`.
_FURTHER_KEY = re.compile(r"(-[\w.,+/:=]+)+")


def _stored_case(row: dict[str, Any], key: str, unknown: set[str]) -> Case:
    """The case of a stored row. Raises RecordError where it is none, or where the key is not its own."""
    known = row
    if not row.keys() <= _CASE_KEYS:
        known = {name: value for name, value in row.items() if name in _CASE_KEYS}
        unknown.update(f"case.{one_line(name)}" for name in row.keys() - _CASE_KEYS)
    try:
        case, case_key = _case(**known)
    except UserError as error:
        raise RecordError(f"not a case: {error}") from None
    if key == case_key:
        return case
    further = key.removeprefix(case_key)
    if len(known) < len(row) and further != key and _FURTHER_KEY.fullmatch(further):
        return LaterCase(**case.to_dict(), further=further)
    raise RecordError(f'case_key "{short(key)}" is not the key of its case, {case_key}')
