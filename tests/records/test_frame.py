"""The DataFrame: one row a record, facts in flat columns, missing where the record does not hold them."""

from dataclasses import replace

import pandas
import pytest
from fakes.report_runs import H200, LAPTOP, accuracy, failed, incorrect, ok, unsupported, write_run

from attnbench.case import FIELDS, forward_flops
from attnbench.records.frame import load
from attnbench.records.metrics import METRICS
from attnbench.records.store import StoreError

RECORDS = (
    ok("fa3", 1e-3, accuracy(e1=0.1), {"prep_s": 0.25, "converged": False, "unmet": ("stdev", "time")}, ["clock low"]),
    incorrect("fa2"),
    unsupported("flex", "needs CUDA"),
    failed("triton", "crash", "signal 11"),
)


@pytest.fixture
def frame(tmp_path):
    return load(write_run(tmp_path / "one", RECORDS))


def test_one_row_a_record_in_order(frame):
    assert list(frame.backend) == ["fa3", "fa2", "flex", "triton"]
    assert list(frame.status) == ["ok", "incorrect", "unsupported", "error"]
    assert list(frame.kind.fillna("")) == ["", "", "", "crash"]
    assert set(frame.run) == {"one"} and set(frame.machine) == {"NVIDIA H200"}


def test_columns_hold_the_facts(frame):
    row = frame.iloc[0]
    assert row.case_key == RECORDS[0].case_key and row.seqlen_q == 4096 and row["dtype"] == "bf16"
    assert row.median_s == pytest.approx(1e-3) and row.p10_s < row.median_s < row.p90_s
    assert row.tflops == pytest.approx(forward_flops(RECORDS[0].case) / 1e-3 / 1e12)
    assert row.pct_peak == pytest.approx(100 * row.tflops * 1e12 / (132 * 1.83e9 * 4096))
    assert (row.regime, row.timer, row.cache, row.processes) == ("sustained", "events", "cold", 1)
    assert (row.converged, row.unmet, row.prep_s, row.warnings) == (False, "stdev; time", 0.25, "clock low")
    assert row.ci_low_s <= row.median_s <= row.ci_high_s and row.ci_coverage >= 0.95
    assert (row.e1, row.rule_relative_rmse, row.limit_relative_rmse, row.value_bias) == (0.1, 2e-3, 3e-3, 1e-6)
    assert row.rule_worst_row_relative_rmse == pytest.approx(6e-3)


def test_missing_is_missing_and_never_zero(frame):
    for column in ("median_s", "tflops", "pct_peak", "prep_s", "timer", "converged"):
        assert frame[column].iloc[1:].isna().all(), column
    assert frame.rule_relative_rmse.iloc[1] == 0.04
    assert frame.rule_relative_rmse.iloc[2:].isna().all()


def test_columns_are_flat_and_complete(frame):
    assert {*FIELDS, *(metric.name for metric in METRICS)} <= set(frame.columns)
    assert len(set(frame.columns)) == len(frame.columns)
    assert not any(isinstance(cell, (dict, list, tuple)) for cell in frame.to_numpy().ravel())


def test_several_runs_and_an_empty_one(tmp_path):
    first = write_run(tmp_path / "a", RECORDS[:1])
    second = write_run(tmp_path / "b", RECORDS[2:], LAPTOP)
    both = load([first, str(second)])
    assert list(both.run) == ["a", "b", "b"] and list(both.machine) == ["NVIDIA H200"] + ["Laptop CPU"] * 2
    assert load(first, second).equals(both)
    empty = load(write_run(tmp_path / "c", (), H200))
    assert isinstance(empty, pandas.DataFrame) and len(empty) == 0 and "tflops" in empty.columns


def test_no_run_says_so(tmp_path):
    with pytest.raises(StoreError, match="no such run directory"):
        load(tmp_path / "nowhere")


def test_a_metric_has_one_name_everywhere(frame):
    """`list metrics`, the columns, and what METRICS calls it."""
    from attnbench.cli.listing import list_metrics

    names = [line.split()[0] for line in list_metrics(())]
    assert names == [metric.name for metric in METRICS] == [name for name in frame.columns if name in names]


def test_raw_samples_are_those_of_the_records(tmp_path):
    timed = ok("fa3", 1e-3)
    blocks = tuple(replace(block, process=number) for number, block in enumerate(timed.measurement.blocks * 2))
    marked = replace(timed, measurement=replace(timed.measurement, blocks=blocks, outliers=((1, 2),)))
    path = write_run(tmp_path / "one", (marked, failed("triton", "crash", "x"), ok("fa2", 2e-3), ok("naive", None)))
    samples = load(path, samples=True)
    kept = {"fa3": marked.measurement.samples_s, "fa2": ok("fa2", 2e-3).measurement.samples_s}
    assert {name: tuple(rows.sample_s) for name, rows in samples.groupby("backend", sort=False)} == kept
    fa3 = samples[samples.backend == "fa3"]
    assert list(fa3[fa3.outlier][["block", "process", "sample"]].iloc[0]) == [1, 1, 2] and fa3.outlier.sum() == 1
    assert list(fa3.block.unique()) == [0, 1] and set(fa3.samples_taken) == {blocks[0].sample_count}
    assert set(fa3.case_key) == {marked.case_key} and set(fa3.seqlen_q) == {4096} and set(fa3.run) == {"one"}
    assert samples.groupby("backend").sample_s.median()["fa2"] == pytest.approx(load(path).median_s.iloc[2])
    none = load(write_run(tmp_path / "two", (failed("triton", "crash", "x"),)), samples=True)
    assert len(none) == 0 and list(none.columns) == list(samples.columns)
