"""Clocks, power and sentinels as they are read: metrics by hand, the report's section cell by cell."""

import json

import pytest
from fakes.report_runs import H200, LAPTOP, ok, write_run

from attnbench import load
from attnbench.case import forward_flops
from attnbench.records.environment import Machine
from attnbench.records.measurement import Block, Conditions
from attnbench.records.metrics import METRICS
from attnbench.records.result import Observed, Result, power_w, sm_clock_mhz
from attnbench.records.store import SENTINELS
from attnbench.report.page import write_report


def block(time_s, duration_s, busy=0.95, **conditions):
    """The call had the share `busy` of the block."""
    count = max(10, round(busy * duration_s / time_s))
    return Block((time_s,) * 10, count, duration_s=duration_s, conditions=Conditions(telemetry_samples=9, **conditions))


def watched(backend, time_s, *blocks, flags=(), discarded=None, **fields):
    timing = {"blocks": blocks, "flags": flags, "discarded": discarded or {}}
    return ok(backend, time_s, timing=timing, **fields)


def test_conditions_are_weighted_by_how_long_a_block_lasted():
    record = watched(
        "fa3", 1e-3,
        block(1e-3, 3.0, sm_clock_mhz=1700.0, power_w=690.0, temperature_c=60, load=1.0),
        block(1e-3, 1.0, sm_clock_mhz=1500.0, power_w=650.0, temperature_c=71),
        Block((1e-3,), 1, duration_s=9.0),
    )  # fmt: skip
    assert Observed.of(record.measurement) == Observed(sm_clock_mhz=1650, power_w=680, temperature_c=71, load=1.0)
    assert Observed.of(ok("fa3", 1e-3).measurement) == Observed()


def test_power_comes_from_the_energy_counter_where_it_ran_long_enough():
    long = watched("fa3", 1e-3, *[block(1e-3, 0.8, power_w=1.0, energy_j=490.0, energy_span_s=0.7)] * 2)
    assert power_w(long.measurement) == pytest.approx(700.0)
    short = watched("fa3", 1e-3, block(1e-3, 0.8, power_w=640.0, energy_j=210.0, energy_span_s=0.3))
    assert power_w(short.measurement) == 640.0
    undated = watched("fa3", 1e-3, *[block(1e-3, 0.0, sm_clock_mhz=clock) for clock in (1000, 2000)])
    assert sm_clock_mhz(undated.measurement) == 1500


def test_power_that_is_not_the_calls_own_is_not_told():
    """Many blocks of 20 ms in turns with another kernel's; a short call, whose blocks are spin for the most part."""
    seen = {"power_w": 600.0, "energy_j": 12.0, "energy_span_s": 0.02, "sm_clock_mhz": 1700.0}
    turns = watched("fa3", 1e-3, *[block(1e-3, 0.02, **seen)] * 100)
    spun = watched("fa3", 1e-3, block(1e-3, 2.0, busy=0.3, power_w=300.0, energy_j=600.0, energy_span_s=1.9))
    assert power_w(turns.measurement) is power_w(spun.measurement) is None
    assert sm_clock_mhz(turns.measurement) == pytest.approx(1700)


def test_metrics_of_a_watched_record():
    record = watched("fa3", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1500.0, power_w=600.0))
    result = Result.of(record, "run", Machine.of(H200))
    found = {metric.name: metric.of(result) for metric in METRICS}
    flops = forward_flops(record.case)
    assert found["sm_clock_mhz"] == 1500 and found["power_w"] == 600
    assert found["sm_cycles"] == pytest.approx(1.5e6)
    assert found["joules_per_flop"] == pytest.approx(600 * 1e-3 / flops)
    assert found["pct_peak_at_clock"] == pytest.approx(100 * flops / 1e-3 / (132 * 1.5e9 * 4096))
    assert found["pct_peak_at_clock"] / found["pct_peak"] == pytest.approx(1830 / 1500)


@pytest.mark.parametrize("environment", [LAPTOP, {**H200, "gpu": {**H200["gpu"], "sm_count": 78}}])
def test_no_peak_at_a_clock_is_invented(environment):
    record = watched("fa3", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1500.0))
    assert Result.of(record, "run", Machine.of(environment)).peak_at_clock_flops_per_s is None


def gpu_run(folder):
    hot = {"power_limit_w": 700.0, "temperature_c": 66.0}
    records = [
        watched("fa3", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1410.0, power_w=698.6, **hot), flags=("power_capped",)),
        watched("fa3", 2e-3, block(2e-3, 1.0, sm_clock_mhz=1755.0, power_w=650.0, **hot), seqlen=2048,
                discarded={"power brake": 1, "hardware thermal slowdown": 2}),
        watched("fa2", 2e-3, block(2e-3, 1.0, sm_clock_mhz=1755.0, problems=("power_w: Unknown Error",)),
                flags=("telemetry_incomplete",)),
    ]  # fmt: skip
    run = write_run(folder / "run", records, {name: fact for name, fact in H200.items() if name != "sentinels"})
    rows = [(700e12, 2.50e12), (690e12, 2.51e12), (720e12, 2.50e12)]
    lines = [{"gemm_dtype": "bf16", "gemm_flops_per_s": gemm, "copy_bytes_per_s": copy} for gemm, copy in rows]
    (run / SENTINELS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_section_of_a_gpu_run(tmp_path):
    text = write_report([gpu_run(tmp_path)], tmp_path / "report.md").read_text()
    start = text.index("## The machine meanwhile")
    rows = {
        cells[2]: cells[3:-1]
        for line in text[start : text.index("\n## ", start + 5)].splitlines()
        if line.startswith("|") and (cells := [cell.strip() for cell in line.split("|")])
    }
    rate = forward_flops(ok("fa3", 1e-3).case) / 1e-3
    small = forward_flops(ok("fa3", 2e-3, seqlen=2048).case) / 2e-3
    shares = sorted((rate / (132 * 1.41e9 * 4096), small / (132 * 1.755e9 * 4096)))
    assert rows["backend"] == ["SM clock", "power", "temperature", "pJ/FLOP", "% of peak at that clock",
                               "% of own GEMM", "flags", "discarded blocks"]  # fmt: skip
    assert rows["`fa3`"] == [
        "1410 – 1755 MHz", "650 – 699 W", "66 C", f"{698.6 / rate * 1e12:.2f} – {650 / small * 1e12:.2f}",
        f"{100 * shares[0]:.1f} % – {100 * shares[1]:.0f} %",
        f"{100 * small / 700e12:.1f} % – {100 * rate / 700e12:.0f} %", "`power_capped` 1 of 2",
        "2 (hardware thermal slowdown), 1 (power brake)",
    ]  # fmt: skip
    assert rows["`fa2`"][:4] == ["1755 MHz", "—", "—", "—"] and rows["`fa2`"][-2:] == [
        "`telemetry_incomplete` 1 of 1", "—",
    ]  # fmt: skip
    assert rows["bf16 GEMM"] == ["3", "700 TFLOPS", "720 TFLOPS", "690 TFLOPS", "720 TFLOPS", "4.3 %"]
    assert rows["copy"] == ["3", "2500 GB/s", "2500 GB/s", "2500 GB/s", "2510 GB/s", "0.4 %"]
    summary = text[: text.index("## Machine")]
    assert "**suspect run** `run`: its own GEMM rate moved by 4.3% over 3 sentinels (690 TFLOPS to 720" in summary
    assert "The run's own bf16 GEMM: 700.0 TFLOPS" in text


def test_the_same_records_give_the_same_bytes(tmp_path):
    run = gpu_run(tmp_path)
    first = write_report([run], tmp_path / "report.md").read_bytes()
    assert write_report([run], tmp_path / "report.md").read_bytes() == first


def test_a_row_a_dtype_stands_above_the_folded_families_and_each_run_keeps_its_own(tmp_path):
    cold = [watched("fa3", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1200.0), flags=("power_capped",))]
    cold.append(watched("fa2", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1300.0), seqlen=2048))
    hot = [watched("fa3", 1e-3, block(1e-3, 1.0, sm_clock_mhz=1700.0), dtype="fp16"), *cold[:1]]
    runs = [write_run(tmp_path / name, records) for name, records in (("cold", cold), ("hot", hot))]
    for names, clocks in (
        (runs[:1], {"bf16": "1200 – 1300 MHz"}),
        (runs, {"bf16 (A)": "1200 – 1300 MHz", "bf16 (B)": "1200 MHz", "fp16 (B)": "1700 MHz"}),
    ):
        text = write_report(names, tmp_path / "report.md").read_text()
        shown = text[text.index("## The machine meanwhile") : text.index("<summary>By family and backend")]
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in shown.splitlines() if line.startswith("|")]
        assert dict(rows[2:]) == clocks


def test_a_run_that_nobody_watched_has_no_section(tmp_path):
    run = write_run(tmp_path / "run", [ok("fa2", 1e-3)])
    assert "The machine meanwhile" not in write_report([run], tmp_path / "report.md").read_text()


def test_the_dataframe_has_flags_and_discarded_blocks(tmp_path):
    frame = load(gpu_run(tmp_path))
    assert list(frame["flags"]) == ["power_capped", "", "telemetry_incomplete"]
    assert list(frame["discarded_blocks"]) == [0, 3, 0]
    assert list(frame["sm_clock_mhz"]) == [1410, 1755, 1755]
