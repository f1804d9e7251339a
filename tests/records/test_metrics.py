"""FLOPs and bytes against brute force; peaks against the datasheets; every metric on a record that has it and not."""

import itertools
from dataclasses import replace

import pytest
from fakes.report_runs import H200, LAPTOP, accuracy, case, measurement, ok, unsupported

from attnbench.case import LaterCase, compulsory_bytes, forward_flops
from attnbench.records.environment import Machine
from attnbench.records.measurement import PrepTiming
from attnbench.records.metrics import METRICS
from attnbench.records.result import Result, TimedResult, latest

SHAPES = [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3), (4, 4)]


def counted_flops(problem):
    """Walks the loops of the definition and counts each multiply and each add."""
    flops = 0
    for _ in range(problem.batch * problem.num_heads):
        for i, j in itertools.product(range(problem.seqlen_q), range(problem.seqlen_k)):
            if problem.causal and not j <= i + problem.seqlen_k - problem.seqlen_q:
                continue
            for _ in range(problem.head_dim):  # one term of q . k
                flops += 2
            for _ in range(problem.head_dim_v):  # one element of p v
                flops += 2
    return flops


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seqlen_q, seqlen_k", SHAPES)
def test_flops_are_those_of_the_loops(seqlen_q, seqlen_k, causal):
    problem = case(batch=2, num_heads=6, num_heads_kv=3, head_dim=8, head_dim_v=5, seqlen_q=seqlen_q,
                   seqlen_k=seqlen_k, seqlen=None, causal=causal)  # fmt: skip
    assert forward_flops(problem) == counted_flops(problem)


def test_flops_of_the_flashattention_3_grid():
    """4 * seqlen**2 * head_dim * num_heads * batch, halved for causal up to the diagonal (FlashAttention-3, 4.1)."""
    assert forward_flops(case(causal=False)) == 4 * 4096**2 * 128 * 16 * 4
    assert forward_flops(case(causal=True)) == 4 * (4096 * 4097 // 2) * 128 * 16 * 4


@pytest.mark.parametrize("scaling", ["none", "tensor", "head", "token", "block"])
@pytest.mark.parametrize("seqlen_q, seqlen_k", SHAPES)
def test_e4m3_bytes_are_those_of_the_tensors(seqlen_q, seqlen_k, scaling):
    from attnbench.reference.inputs import make_inputs

    problem = case(batch=2, num_heads=4, num_heads_kv=2, head_dim=16, head_dim_v=8, seqlen_q=seqlen_q,
                   seqlen_k=seqlen_k, seqlen=None, dtype="e4m3", scaling=scaling, block_size=3)  # fmt: skip
    made = make_inputs(problem).quantized
    descales = (made.q_descale, made.k_descale, made.v_descale)
    tensors = (made.q, made.k, made.v) + (() if scaling == "none" else descales)
    assert compulsory_bytes(problem) == sum(tensor.nbytes for tensor in tensors) + output_bytes(problem)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bit_bytes_are_those_of_the_tensors(dtype):
    from attnbench.reference.inputs import make_inputs

    problem = case(batch=2, num_heads=4, num_heads_kv=2, head_dim=16, head_dim_v=8, seqlen=5, dtype=dtype)
    made = make_inputs(problem)
    assert compulsory_bytes(problem) == made.q.nbytes + made.k.nbytes + made.v.nbytes + output_bytes(problem)


def output_bytes(problem):
    rows = problem.batch * problem.seqlen_q * problem.num_heads
    return rows * problem.head_dim_v * 2 + rows * 4  # out in 16 bits, lse in fp32


@pytest.mark.parametrize("capability, sms, dtype, tflops", [
    ([9, 0], 132, "bf16", 989), ("9.0", 132, "fp16", 989), ([9, 0], 132, "e4m3", 1979), ([9, 0], 114, "fp16", 756),
    ("8.0", 108, "bf16", 312),
])  # fmt: skip
def test_peaks_are_the_datasheets(capability, sms, dtype, tflops):
    machine = Machine.of({"gpu": {"name": "any name", "compute_capability": capability, "sm_count": sms}})
    assert machine.peak_flops_per_s(dtype) == pytest.approx(tflops * 1e12, rel=1.5e-3)


@pytest.mark.parametrize("environment, dtype", [
    ({}, "bf16"),
    (LAPTOP, "bf16"),
    ({"gpu": {"compute_capability": [9, 0]}}, "bf16"),  # SM count not recorded
    ({"gpu": {"compute_capability": [9, 0], "sm_count": 78}}, "bf16"),  # H20: cut tensor cores
    ({"gpu": {"compute_capability": [8, 0], "sm_count": 108}}, "e4m3"),  # no FP8 tensor cores
    ({"gpu": {"compute_capability": "unknown", "sm_count": 108}}, "bf16"),
    ({**H200, "device": "cpu"}, "bf16"),  # a GPU is there, the run kept to the CPU
])  # fmt: skip
def test_no_peak_is_invented(environment, dtype):
    assert Machine.of(environment).peak_flops_per_s(dtype) is None


def metrics_of(record, environment):
    result = Result.of(record, "run", Machine.of(environment))
    return {metric.name: metric.of(result) for metric in METRICS}


def test_metrics_of_a_timed_record():
    record = ok("fa3", 1e-3, accuracy(e1=0.01, e2=0.02, e3=0.03), {"prep_s": 0.5, "peak_bytes": 7}, dtype="e4m3")
    found = metrics_of(record, H200)
    rate = forward_flops(record.case) / 1e-3
    assert found["tflops"] == pytest.approx(rate / 1e12)
    assert found["pct_peak"] == pytest.approx(100 * rate / (132 * 1.83e9 * 8192))
    assert found["pct_gemm"] is None  # the sentinel is bf16, the case e4m3
    assert found["prep_and_kernel_s"] == pytest.approx(0.501)
    assert (found["e1"], found["e2"], found["e3"], found["peak_bytes"]) == (0.01, 0.02, 0.03, 7)
    assert found["relative_rmse"] == 2e-3 and found["worst_row"] == pytest.approx(6e-3)
    assert found["prep_call_s"] is None and found["prep_s"] == 0.5
    timed = {"prep_s": 0.5, "prep_call": PrepTiming("own", (3e-4, 1e-4, 2e-4), 1, "cold")}
    found = metrics_of(ok("fa3", 1e-3, accuracy(e1=0.01), timed, dtype="e4m3"), H200)
    assert (found["prep_call_s"], found["prep_s"]) == (2e-4, 0.5)
    assert found["prep_and_kernel_s"] == pytest.approx(1.2e-3)
    assert metrics_of(ok("fa3", 1e-3), H200)["pct_gemm"] == pytest.approx(100 * rate / 750e12)


def test_metrics_of_records_without_a_measurement_are_missing():
    assert set(metrics_of(unsupported("fa2", "needs a GPU"), H200).values()) == {None}
    checked = metrics_of(ok("fa2", None), H200)
    assert checked["median_s"] is None and checked["tflops"] is None and checked["relative_rmse"] == 2e-3


def test_a_time_by_the_hosts_clock_is_held_against_no_gpus_peak():
    assert metrics_of(ok("naive", 1e-3, timing={"timer": "cpu"}), H200)["pct_peak"] is None


def test_only_a_timed_record_of_a_known_case_has_a_rate():
    timed, checked = ok("fa2", 2e-3), ok("fa2", None)
    later = replace(timed, case=LaterCase(**timed.case.to_dict(), further="-window_left=8"))
    known = Result.of(timed)
    assert isinstance(known, TimedResult) and known.measurement == timed.measurement
    assert known.flops_per_s == forward_flops(timed.case) / 2e-3
    for record, time_s in ((checked, None), (later, 2e-3)):
        result = Result.of(record)
        assert not isinstance(result, TimedResult) and result.flops_per_s is None and result.time_s == time_s


def test_latest_keeps_the_last_record_of_a_case_and_backend():
    first, second, other = (Result.of(record) for record in (ok("fa2", 2e-3), ok("fa2", 1e-3), ok("fa3", 1e-3)))
    assert latest((first, other, second)) == (second, other)


def test_metric_table_is_sound():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.name.isidentifier() and metric.name.islower() for metric in METRICS)
    assert {metric.better for metric in METRICS} == {"up", "down"}
    assert measurement(1.0).samples_s  # the maker itself
