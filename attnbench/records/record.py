"""A record: one fact about one backend on one case. Stored raw, never edited.

The types make untruths unwritable: a measurement exists only on a record that passed its checks, an incorrect record
says which rule failed, an unsupported one says why, an error says its kind.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attnbench.case import Case
from attnbench.printable import printable
from attnbench.records.json_values import checked
from attnbench.records.measurement import Block, Count, Measurement, RecordError, known_facts, made_printable
from attnbench.redaction import redacted

SCHEMA = 1
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
# Of an lse that its backend gives for information only (`lse_informational`): figures, and no check.
LSE_VALUE, LSE_LIMIT = "lse_error", "lse_limit"
NON_FINITE = "non-finite outputs"
STEPS_DIFFER = "steps that differ when the sequence is called again"
REPEATS_DIFFER = "repeats that differ bitwise"
THREADS_DIFFER = "calls on another thread that differ bitwise"
STREAMS_DIFFER = "calls on another stream that differ bitwise"
MEMORY_DIFFERS = "calls in used memory that differ bitwise"
PROCESSES_DIFFER = "outputs that differ between processes"
BATCH_DIFFERS = "sequences whose bits depend on the batch"
# The same of a backend that does not say whether it is `batch_invariant`: limited by how many were compared.
BATCH_TOLD = "sequences whose bits depend on the batch, told and not judged"
V_DESCALE_ZERO = "outputs that are not 0 with v_descale 0"


# How the warning begins that a record gets whose 8-bit scheme cannot hold the inputs.
NO_ANSWER = "the 8-bit answer has nothing to do with the right one"
# In a record's `kernel`: what says that it ran in an emulation of its hardware.
EMULATED = "emulated"
# The same of an interpreter of its language.
INTERPRETED = "interpreted"


class OtherSchema(RecordError):
    """A line of a schema that this version does not read."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how it went. `value` and `limit` are in the rule's own unit (relative errors have none)."""

    rule: str
    value: float
    limit: float
    passed: bool
    where: str = ""

    def __post_init__(self) -> None:
        if not (self.rule + self.where).isprintable():
            made_printable(self, "rule", "where")
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
    while it was timed and on fresh inputs after that ("" where nothing was timed). error_map: of an incorrect
    result, lines that draw by head and tile of query rows where it is wrong.
    """

    coverage: str
    rows: Count
    checks: tuple[Check, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    recheck: str = ""
    error_map: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not "".join((self.coverage, self.recheck, *self.error_map, *self.values)).isprintable():
            made_printable(self, "coverage", "recheck", "error_map", "values")
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
    """One case on one backend. `measurement` only with status ok; see design rules in `__post_init__`.

    seed: of what the kernel could not know beforehand, the signs of timed inputs; None where none was given.
    """

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
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (self.backend + self.backend_version).isprintable():
            made_printable(self, "backend", "backend_version")
        if self.reason or self.warnings:
            made_printable(self, "reason", "warnings", by=_told)
        if self.kernel is not None:
            object.__setattr__(self, "kernel", _facts(self.kernel))
        if not self.backend:
            raise RecordError("a record without a backend's name")
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
        if row["measurement"] and row["measurement"]["handover_s"] is None:
            del row["measurement"]["handover_s"]
        if row["seed"] is None:
            del row["seed"]
        row = {"schema": row.pop("schema"), "case": row.pop("case"), "case_key": self.case_key, **row}
        return json.dumps(_finite(row), allow_nan=False, separators=(",", ":"))


def _told(text: str) -> str:
    """What an exception or a backend said, of any number of lines: it may quote anything that a user has."""
    return redacted(printable(text))


def _facts(kernel: Mapping[str, Any]) -> Any:
    try:
        return checked(dict(kernel), "kernel")
    except ValueError as error:
        raise RecordError(str(error)) from None


def _finite(value: Any) -> Any:
    """The same value with non-finite floats named by strings, which every JSON reader takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


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
