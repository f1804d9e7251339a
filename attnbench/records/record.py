"""A record: one fact about one backend on one case. Stored raw, never edited.

The types make untruths unwritable: a measurement exists only on a record that passed its checks, an incorrect record
says which rule failed, an unsupported one says why, an error says its kind.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from attnbench.case import FIELDS, Case, LaterCase
from attnbench.records.measurement import Block, Conditions, Measurement, PrepTiming, RecordError, known_facts

SCHEMA = 1
# The records of a case stand near each other in a run; so many cases are built and checked once.
CASES_KEPT = 4096
STATUSES = ("ok", "incorrect", "unsupported", "error")
# What stands in a reason between the rules that failed and what most likely made them fail.
LIKELY_CAUSE = "; likely cause: "
KINDS = ("crash", "timeout", "oom", "exception", "contract", "unstable", "hazard")


# Names of rules that more than one module knows; whoever reads a record finds its checks by them.
RELATIVE_RMSE = "relative RMSE"
WORST_ROW = "worst row's relative RMSE"
MAX_ERROR = "max error"
RMS_RATIO = "RMS(out) / RMS(ref) - 1"
LSE_ERROR = "LSE error"
NON_FINITE = "non-finite outputs"
REPEATS_DIFFER = "repeats that differ bitwise"
THREADS_DIFFER = "calls on another thread that differ bitwise"
STREAMS_DIFFER = "calls on another stream that differ bitwise"
MEMORY_DIFFERS = "calls in used memory that differ bitwise"
PROCESSES_DIFFER = "outputs that differ between processes"
V_DESCALE_ZERO = "outputs that are not 0 with v_descale 0"


# In a record's `kernel`: what says that it ran in an emulation of its hardware.
EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how it went. `value` and `limit` are in the rule's own unit (relative errors have none)."""

    rule: str
    value: float
    limit: float
    passed: bool
    where: str = ""

    def __post_init__(self) -> None:
        if self.passed != (self.value <= self.limit):  # NaN passes nothing
            verdict = "passed" if self.passed else "failed"
            raise RecordError(f"{self.rule} {verdict} with {self.value:g} against a limit of {self.limit:g}")

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.rule} {self.value:.3g}, limit {self.limit:.3g}{place}"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How the outputs compare with the fp64 oracle.

    coverage: "full", or "sampled" where only some query rows were compared; rows: query rows compared, over all heads.
    checks: every rule that was applied, in order. values: figures without a limit of their own (bias, cosine, the
    e4m3 errors E1, E2, E3, the eager reference's errors that the limits derive from). recheck: what was verified again
    on the last timed buffers and on fresh inputs after timing ("" where nothing was timed). error_map: of an incorrect
    result, lines that draw by head and tile of query rows where it is wrong.
    """

    coverage: str
    rows: int
    checks: tuple[Check, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    recheck: str = ""
    error_map: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.checks:
            raise RecordError("an accuracy without a single check says nothing")

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True, slots=True)
class Record:
    """One case on one backend. `measurement` only with status ok; see design rules in `__post_init__`."""

    case: Case
    backend: str
    backend_version: str
    status: str
    kind: str | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    measurement: Measurement | None = None
    kernel: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise RecordError(f"unknown status {self.status!r}; one of {', '.join(STATUSES)}")
        if (self.status == "error") != (self.kind is not None):
            raise RecordError(
                f"kind goes with status error and with nothing else (status {self.status}, kind {self.kind})"
            )
        if self.kind is not None and self.kind not in KINDS:
            raise RecordError(f"unknown kind {self.kind!r}; one of {', '.join(KINDS)}")
        if self.status != "ok" and not self.reason:
            raise RecordError(f"a record with status {self.status} must say why")
        if self.status == "unsupported" and self.accuracy is not None:
            raise RecordError("an unsupported case has nothing to judge")
        if self.status in ("ok", "incorrect") and self.accuracy is None:
            raise RecordError(f"a record with status {self.status} must carry the accuracy that says so")
        if self.measurement is not None and self.status != "ok":
            raise RecordError(f"a measurement on a record with status {self.status}: only a checked result is timed")
        if self.accuracy is not None and self.accuracy.passed == (self.status == "incorrect"):
            raise RecordError(f"status {self.status} with {'no' if self.accuracy.passed else 'a'} failed check")
        if self.measurement is not None and self.accuracy is not None and not self.accuracy.recheck:
            raise RecordError("a measurement whose outputs were not verified again after timing")
        if self.measurement is not None and EMULATED in (self.kernel or {}):
            raise RecordError("a measurement of a kernel that ran in an emulation: no time of it is a speed")

    @property
    def case_key(self) -> str:
        return self.case.key

    @property
    def likely_cause(self) -> str:
        """What an incorrect record's reason says of its cause, in words; "" where it says nothing."""
        return self.reason.partition("\n")[0].partition(LIKELY_CAUSE)[2]

    def to_json(self) -> str:
        """One line of JSON. Non-finite numbers are written as the strings "NaN", "Infinity", "-Infinity"."""
        row = asdict(self) | {"case": self.case.to_dict()}
        for block in (row["measurement"] or {"blocks": ()})["blocks"]:
            block["conditions"] = known_facts(block["conditions"])
        row = {"schema": row.pop("schema"), "case": row.pop("case"), "case_key": self.case_key, **row}
        return json.dumps(_finite(row), allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes, unknown: set[str] | None = None) -> Record:
        """The record of one stored line. Raises RecordError when the line is no record of this schema.

        unknown: gets the names of keys that a later version wrote and this one leaves out (`measurement.phases`).
        """
        row = _parsed(line)
        if not isinstance(row, dict) or row.get("schema") != SCHEMA:
            found = row.get("schema") if isinstance(row, dict) else type(row).__name__
            raise RecordError(f"schema {found!r}; this version reads schema {SCHEMA}")
        try:
            return cls._from_row(row, set() if unknown is None else unknown)
        except RecordError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # whatever a line may hold instead
            raise RecordError(f"not a record: {error!r}") from None

    @classmethod
    def _from_row(cls, row: dict[str, Any], unknown: set[str]) -> Record:
        row = _known(row, _RECORD_KEYS, "", unknown)
        accuracy, measurement = row.pop("accuracy"), row.pop("measurement")
        return cls(
            case=_stored_case(row.pop("case"), row.pop("case_key"), unknown),
            accuracy=None if accuracy is None else _accuracy(accuracy, unknown),
            measurement=None if measurement is None else _measurement(measurement, unknown),
            warnings=tuple(row.pop("warnings", ())),
            **row,
        )


def _known(row: dict[str, Any], keys: frozenset[str], place: str, unknown: set[str]) -> dict[str, Any]:
    """The row without keys that only a later version knows, whose names join `unknown`."""
    if row.keys() <= keys:
        return row
    unknown.update(f"{place}{name}" for name in row.keys() - keys)
    return {name: value for name, value in row.items() if name in keys}


def _keys(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


_RECORD_KEYS = _keys(Record) | {"case_key"}
_CASE_KEYS, _ACCURACY_KEYS, _CHECK_KEYS = frozenset(FIELDS), _keys(Accuracy), _keys(Check)
_MEASUREMENT_KEYS, _BLOCK_KEYS = _keys(Measurement), _keys(Block)
_CONDITIONS_KEYS, _PREP_KEYS = _keys(Conditions), _keys(PrepTiming)


def _parsed(line: str | bytes) -> Any:
    """What the JSON of a line holds. Raises RecordError where it is none."""
    from pydantic_core import from_json

    try:
        return from_json(line, cache_strings="keys")  # takes a third of the time that `json` takes over samples
    except ValueError:
        pass
    try:
        # `json` has the last word: it also takes text that ended inside a pair of surrogates, as tails of output may.
        return json.loads(line.decode() if isinstance(line, bytes) else line)
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from None


# NOTE: typed, or a stored 1.0 or true would pass for the 1 that another line has.
@lru_cache(CASES_KEPT, typed=True)
def _case(**fields: Any) -> tuple[Case, str]:
    """The case of these fields, and its key."""
    case = Case.make(**fields)
    return case, case.key


def _stored_case(row: dict[str, Any], key: str, unknown: set[str]) -> Case:
    """The case of a stored row. Raises RecordError where the key is not its own."""
    case, case_key = _case(**_known(row, _CASE_KEYS, "case.", unknown))
    if key == case_key:
        return case
    if len(row) > len(_CASE_KEYS & row.keys()) and key.startswith(f"{case_key}-"):
        return LaterCase(**case.to_dict(), further=key.removeprefix(case_key))
    raise RecordError(f'case_key "{key}" is not the key of its case, {case_key}')


def _accuracy(row: dict[str, Any], unknown: set[str]) -> Accuracy:
    row = _known(row, _ACCURACY_KEYS, "accuracy.", unknown)
    stored = (_known(check, _CHECK_KEYS, "accuracy.checks.", unknown) for check in row["checks"])
    checks = tuple(
        Check(**{**check, "value": _number(check["value"]), "limit": _number(check["limit"])}) for check in stored
    )
    values = {name: _number(value) for name, value in row["values"].items()}
    error_map = tuple(row.get("error_map", ()))  # absent from records of before it was drawn
    return Accuracy(row["coverage"], row["rows"], checks, values, row["recheck"], error_map)


def _measurement(row: dict[str, Any], unknown: set[str]) -> Measurement:
    row = _known(row, _MEASUREMENT_KEYS, "measurement.", unknown)
    blocks = tuple(_block(block, unknown) for block in row["blocks"])
    outliers = tuple(tuple(pair) for pair in row["outliers"])
    texts = {name: tuple(row.get(name, ())) for name in ("unmet", "flags", "together")}
    prep_call = row.get("prep_call")  # absent from records of before it was timed
    if prep_call is not None:
        prep_call = _known(prep_call, _PREP_KEYS, "measurement.prep_call.", unknown)
        prep_call = PrepTiming(**{**prep_call, "samples_s": tuple(prep_call["samples_s"])})
    return Measurement(**{**row, "blocks": blocks, "outliers": outliers, "prep_call": prep_call, **texts})


def _block(row: dict[str, Any], unknown: set[str]) -> Block:
    row = _known(row, _BLOCK_KEYS, "measurement.blocks.", unknown)
    conditions = row.get("conditions")
    if conditions is not None:
        conditions = Conditions.of(_known(conditions, _CONDITIONS_KEYS, "measurement.blocks.conditions.", unknown))
    return Block(**{**row, "samples_s": tuple(row["samples_s"]), "conditions": conditions})


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _finite(value: Any) -> Any:
    """The same value with non-finite floats named by strings, which every JSON reader takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _number(value: float | str) -> float:
    return _NON_FINITE[value] if isinstance(value, str) else value


# One record from the records of several fresh processes.


def merge_processes(records: Sequence[Record]) -> Record:
    """One record from one per process: the first that is not ok, or the first with the blocks of all, numbered."""
    failed = next((record for record in records if record.status != "ok"), None)
    if failed is not None:
        return failed
    first = records[0]
    if first.measurement is None:
        return replace(first, accuracy=_worst(records))
    measurements = [record.measurement for record in records if record.measurement is not None]
    assert len(measurements) == len(records), "a case is timed in all of its processes, or in none"
    blocks: list[Block] = []
    outliers: list[tuple[int, int]] = []
    for process, measurement in enumerate(measurements):
        outliers += [(len(blocks) + block, sample) for block, sample in measurement.outliers]
        blocks += [replace(block, process=process) for block in measurement.blocks]
    took_turns = all(measurement.together for measurement in measurements)  # or its rounds pair with nobody's
    merged = replace(
        measurements[0],
        together=measurements[0].together if took_turns else (),
        order_seed=measurements[0].order_seed if took_turns else None,
        blocks=tuple(blocks),
        outliers=tuple(outliers),
        converged=all(measurement.converged for measurement in measurements),
        unmet=tuple(dict.fromkeys(text for measurement in measurements for text in measurement.unmet)),
        discarded=dict(sum((Counter(measurement.discarded) for measurement in measurements), Counter())),
        flags=tuple(dict.fromkeys(flag for measurement in measurements for flag in measurement.flags)),
    )
    warnings = tuple(dict.fromkeys(text for record in records for text in record.warnings))
    return replace(first, measurement=merged, warnings=warnings, accuracy=_worst(records))


def _worst(records: Sequence[Record]) -> Accuracy:
    """The accuracy of the process whose largest share of a limit was the largest."""

    def strain(accuracy: Accuracy) -> float:
        return max((check.value / check.limit for check in accuracy.checks if check.limit), default=0.0)

    return max((record.accuracy for record in records if record.accuracy is not None), key=strain)
