"""Records as a pandas DataFrame: one row a record, flat columns, units in their names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas

from attnbench.case import FIELDS, LaterCase, compulsory_bytes, forward_flops
from attnbench.records import store
from attnbench.records.metrics import METRICS
from attnbench.records.result import Result, results

Paths = str | Path | Iterable[str | Path]


def load(*runs: Paths, samples: bool = False) -> pandas.DataFrame:
    """The records of one run directory or of several (as arguments or in a list), in the order of writing.

    samples: a row for each sample that a record keeps instead, in time order; see `sample_frame`.

    Columns: run; machine; every field of the case; case_key; backend, backend_version, status, kind, reason, warnings;
    flops and bytes (of the case); one for each metric; how it was timed; coverage; `rule_...` and `limit_...` for each
    rule that was applied; `value_...` for each further figure of the accuracy. A cell without a fact is missing (NaN or
    None), never zero.
    """
    paths = [path for given in runs for path in ((given,) if isinstance(given, (str, Path)) else given)]
    runs_read = [store.read(path) for path in paths]
    for run in runs_read:
        if run.later:
            warnings.warn(f"{run.path}: {run.later}", stacklevel=2)
    if samples:
        return sample_frame([result for run in runs_read for result in results(run)])
    rows = [_row(result) for run in runs_read for result in results(run)]
    return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=list(_COLUMNS))


def sample_frame(found: Sequence[Result]) -> pandas.DataFrame:
    """Raw samples, a row each, of the records that hold a measurement.

    Columns: run, machine, the fields of the case, case_key, backend; block, process, round, arm of the block, and
    block_start_s, seconds since the epoch; sample, its place among those kept of the block, and samples_taken, of how
    many; sample_s, seconds per call; outlier, whether it is flagged as one.
    """
    whose: list[dict[str, Any]] = []
    index: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for result in found:
        measurement = result.record.measurement
        if measurement is None:
            continue
        flagged = set(measurement.outliers)
        for number, block in enumerate(measurement.blocks):
            facts = (number, block.process, block.round, block.arm, block.start_s, block.sample_count)
            rows += [(*facts, at, s, (number, at) in flagged) for at, s in enumerate(block.samples_s)]
            index += [len(whose)] * len(block.samples_s)
        whose.append(_identity(result))
    about = pandas.DataFrame(whose, columns=_IDENTITY).take(index).reset_index(drop=True)
    return about.join(pandas.DataFrame(rows, columns=_SAMPLE))


def _identity(result: Result) -> dict[str, Any]:
    record = result.record
    fields = {name: getattr(record.case, name) for name in FIELDS}
    names = {"case_key": record.case_key, "backend": record.backend}
    return {"run": result.run, "machine": result.machine.name, **fields, **names}


def _row(result: Result) -> dict[str, Any]:
    record = result.record
    row = _identity(result)
    row |= {
        "backend_version": record.backend_version,
        "status": record.status,
        "kind": record.kind,
        "reason": record.reason,
        "warnings": "; ".join(record.warnings),
        "flops": None if isinstance(record.case, LaterCase) else forward_flops(record.case),
        "bytes": None if isinstance(record.case, LaterCase) else compulsory_bytes(record.case),
    }
    row |= {metric.name: metric.of(result) for metric in METRICS}
    return row | _timing_columns(result) | _accuracy_columns(result)


def _timing_columns(result: Result) -> dict[str, Any]:
    measurement, statistics = result.record.measurement, result.statistics
    if measurement is None or statistics is None:
        return dict.fromkeys(_TIMING)
    interval = statistics.interval
    values = (
        measurement.timer, measurement.regime, measurement.cache, statistics.processes, measurement.calls_per_sample,
        statistics.sample_count, statistics.count, statistics.outliers, measurement.input_sets, measurement.converged,
        "; ".join(measurement.unmet), measurement.warmup_s, interval and interval.low_s, interval and interval.high_s,
        interval and interval.coverage, "; ".join(measurement.flags), sum(measurement.discarded.values()),
        None if measurement.peak_bytes is None else measurement.peak_by,
    )  # fmt: skip
    return dict(zip(_TIMING, values, strict=True))


def _accuracy_columns(result: Result) -> dict[str, Any]:
    accuracy = result.record.accuracy
    if accuracy is None:
        return dict.fromkeys(("coverage", "rows_compared", "recheck"))
    row: dict[str, Any] = {
        "coverage": accuracy.coverage,
        "rows_compared": accuracy.rows,
        "recheck": accuracy.recheck,
    }
    for check in accuracy.checks:
        name = _slug(check.rule)
        row[f"rule_{name}"] = check.value
        row[f"limit_{name}"] = check.limit
    return row | {f"value_{name}": value for name, value in accuracy.values.items() if name not in _METRICS}


@cache
def _slug(rule: str) -> str:
    """A rule's name as a column: `worst row's relative RMSE` becomes `worst_row_relative_rmse`."""
    return re.sub(r"\W+", "_", rule.lower().replace("'s ", " ")).strip("_")


_METRICS = tuple(metric.name for metric in METRICS)
_TIMING = ("timer", "regime", "cache", "processes", "calls_per_sample", "samples_taken", "samples_kept", "outliers",
           "input_sets", "converged", "unmet", "warmup_s", "ci_low_s", "ci_high_s", "ci_coverage", "flags",
           "discarded_blocks", "peak_by")  # fmt: skip
_IDENTITY = ("run", "machine", *FIELDS, "case_key", "backend")
_SAMPLE = ("block", "process", "round", "arm", "block_start_s", "samples_taken", "sample", "sample_s", "outlier")
_COLUMNS = (*_IDENTITY, "backend_version", "status", "kind", "reason", "warnings",
            "flops", "bytes", *_METRICS, *_TIMING, "coverage", "rows_compared",
            "recheck")  # fmt: skip
