"""Pallas kernels in jax's interpreters: a right one passes everything, each planted fault is told by its name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from unittest import SkipTest

import pytest
from paths import ROOT

import attnbench
from attnbench.case import Case
from attnbench.records.stored_record import stored_record

pytest.importorskip("jax", reason="not run: jax is not installed (pip install 'attnbench[jax]')")
planted = pytest.importorskip("planted_pallas", reason="not run: needs jax")

CASE = Case.make(batch=1, num_heads=2, num_heads_kv=1, head_dim=32, seqlen_q=45, seqlen_k=75, dtype="bf16", causal=True)
PLAIN = Case.make(batch=1, num_heads=2, head_dim=32, seqlen_q=70, seqlen_k=70, dtype="bf16")


def judged(kernel, mode, case=CASE):
    try:
        (record,) = attnbench.check(kernel, case, interpret=mode)
    except (AssertionError, SkipTest) as error:
        return str(error)
    return record


def source_line(told):
    place = told[told.index("planted_pallas.py:") :].removeprefix("planted_pallas.py:")
    number = int("".join(character for character in place[:4] if character.isdigit()))
    return (ROOT / "tests" / "interpreters" / "planted_pallas.py").read_text().splitlines()[number - 1].strip()


@pytest.mark.parametrize("mode", ["hlo", "tpu"])
def test_a_right_kernel_is_right_and_never_timed(mode):
    record = judged(planted.right, mode)
    assert record.status == "ok" and record.measurement is None and not record.warnings, record.reason
    interpreted = record.kernel["interpreted"]
    assert interpreted["language"] == "pallas" and interpreted["mode"] == mode and interpreted["defined"]
    assert interpreted["x64"] is False and interpreted["matmul_precision"] == "default"
    assert record.kernel["name"] == "planted" and record.kernel["counted"]["tensor_flops"] > 0
    assert stored_record(record.to_json()) == record


@pytest.mark.full
def test_a_right_gpu_kernel_in_fp16_with_a_tail():
    record = judged(planted.of_gpu(), "hlo", dataclasses.replace(PLAIN, dtype="fp16"))
    assert record.status == "ok", record


def test_a_gpu_kernel_is_none_for_the_tpu_interpreter():
    with pytest.raises(SkipTest, match="a kernel for a GPU: jax's tpu interpreter runs none; --interpret=hlo does"):
        attnbench.check(planted.of_gpu(), PLAIN, interpret="tpu")


@pytest.mark.parametrize("mode", ["hlo", pytest.param("tpu", marks=pytest.mark.full)])
def test_rows_that_nobody_stores_are_named(mode):
    told = judged(planted.of_tpu("unwritten"), mode)
    assert "rows that are not finite" in told and "row 32" in told, told


@pytest.mark.full
def test_an_output_that_is_the_accumulator_is_wrong():
    """bf16 rounds once a tile of keys: what its limit allows is passed after some dozens."""
    case = Case.make(batch=1, num_heads=1, head_dim=32, seqlen_q=32, seqlen_k=2048, dtype="bf16")
    assert judged(planted.of_tpu(), "hlo", case).status == "ok"
    assert "incorrect" in judged(planted.of_tpu("accumulator"), "hlo", case)


def test_a_race_has_both_lines_of_the_source():
    told = judged(planted.of_tpu("race"), "tpu")
    assert "hazard" in told and "planted: a race in vmem: no semaphore orders a " in told, told
    assert "copy.start()" in source_line(told[told.index("a write at") :])
    assert source_line(told[told.index("a read at") :]).startswith("product = ")


def test_a_copy_from_outside_has_the_line_of_the_source():
    told = judged(planted.of_tpu("outside"), "tpu")
    assert "hazard" in told and "Out-of-bounds read" in told and source_line(told) == "copy.start()", told


def test_masked_lanes_that_decide_the_result_are_told_with_their_line():
    record = judged(planted.of_gpu("undefined"), "hlo", PLAIN)
    assert record.status == "ok" and record.kernel["interpreted"]["defined"] is False, record.reason
    (place,) = record.kernel["interpreted"]["undefined"]
    assert source_line(place).startswith("v = gpu.load(v_ref")
    assert record.warnings[0].endswith(place)


def test_a_shape_is_compiled_once_a_condition():
    from attnbench.backend import Outputs
    from attnbench.interpreters.backend import Conditions
    from attnbench.interpreters.pallas.arrays import on_jax_arrays
    from attnbench.interpreters.pallas.language import PallasLanguage
    from attnbench.reference.inputs import make_inputs

    traced = []

    def noted(q, k, v, *, causal, softmax_scale):
        traced.append(q.shape)
        return planted.of_gpu()(q, k, v, causal=causal, softmax_scale=softmax_scale)

    import jax

    function = on_jax_arrays(jax.jit(noted, static_argnames=("causal", "softmax_scale")))
    language = PallasLanguage("hlo", asked=True)
    for number in range(6):
        inputs = make_inputs(PLAIN, "cpu", number)
        conditions = Conditions(order=None if number == 0 else number)
        outputs, ran = language.called(
            lambda inputs=inputs: Outputs(function(inputs.q, inputs.k, inputs.v, causal=False, softmax_scale=0.5)),
            conditions,
        )
        assert ran.kernels == ("gpu_kernel",) and outputs.out.shape == inputs.q.shape
    assert len(traced) == 2, "in order, and in another order"


def test_what_launches_no_kernel_is_not_judged():
    with pytest.raises(SkipTest, match="it launched no kernel of Pallas"):
        attnbench.check(planted.no_kernel, PLAIN, interpret="hlo")


def test_a_wrapper_that_converts_by_itself_is_judged_as_the_jitted_one():
    record = judged(planted.of_tensors, "hlo")
    assert record.status == "ok" and record.kernel["interpreted"]["language"] == "pallas", record


def test_the_command_line_runs_a_jitted_function(tmp_path):
    plugin = ROOT / "tests" / "interpreters" / "planted_pallas.py"
    command = [sys.executable, "-m", "attnbench", "run", "--axis", "seqlen=33", "--axis", "head_dim=32", "--axis",
               "num_heads=1", "--interpret", "--plugin", f"{plugin}:right", "--backend", "right",
               "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert (record["backend"], record["status"]) == ("right", "ok")
    assert record["kernel"]["interpreted"]["language"] == "pallas"
