"""Quantize kernel, then e4m3 attention kernel, both emulated: the backend as the harness calls, judges and times it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from emulator import EmulatedKernel, Schedule
from parallel import load
from quantize_problem import load_quantizer

from attnbench.backends.hopper_fp8 import QUANTIZER, HopperFp8
from attnbench.case import Case
from attnbench.hopper import quantizer as kernel_quantizer
from attnbench.hopper import schedules
from attnbench.hopper.forward import Fp8Operands, bind, case_block_size
from attnbench.hopper.library import KernelError, QuantizeLibrary
from attnbench.hopper.schedules import FP8_SCHEDULES
from attnbench.hopper.toolchain import KERNELS
from attnbench.reference.quantize import quantize
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

QUICK = Timing(min_samples=1, min_time_s=1e-6, max_time_s=1e-3, warmup_s=1e-6, cache="warm", timer="cpu")
CHAINS = (
    {"scaling": "block", "hadamard": True, "inputs": "outliers"},
    {"scaling": "head", "hadamard": True, "causal": True, "head_dim": 64},
    {"scaling": "tensor", "head_dim": 256, "seqlen_q": 70, "seqlen_k": 130},
    {"scaling": "block", "causal": True, "num_heads": 4, "num_heads_kv": 1},
)


@dataclass(frozen=True)
class EmulatedFp8(HopperFp8):
    """The backend with its two libraries emulated."""

    devices: tuple[str, ...] = ("cpu",)

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "emulated"

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        return None


@dataclass(frozen=True)
class EmulatedBuild:
    kernel: EmulatedKernel

    @property
    def library(self):
        return self.kernel.library

    @property
    def variants(self):
        return self.kernel.library.variants


class NoStream:
    cuda_stream = 0


@pytest.fixture(scope="module")
def quantizer() -> EmulatedKernel:
    return load_quantizer()


@pytest.fixture(autouse=True)
def emulated(quantizer: EmulatedKernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def built(schedule: str) -> EmulatedBuild:
        return EmulatedBuild(load(KERNELS / f"{FP8_SCHEDULES[schedule].file}.cu"))

    def library() -> QuantizeLibrary:
        return quantizer.library

    monkeypatch.setattr(schedules, "built_kernel", built)
    monkeypatch.setattr(kernel_quantizer, "built_library", library)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", NoStream)
    for kernel in (quantizer, built("fp8").kernel):
        kernel.emulator.configure(Schedule("random", seed=3))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(**fields: Any) -> Case:
    sizes = {"batch": 1, "seqlen_q": 130, "seqlen_k": 300, "num_heads": 2, "num_heads_kv": 1, "head_dim": 128}
    return Case.make(**{**sizes, "dtype": "e4m3", **fields})


@pytest.mark.parametrize(
    ("fields", "schedule"), [*((fields, "fp8") for fields in CHAINS), (CHAINS[0], "fp8_two_level")],
    ids=lambda one: one if isinstance(one, str) else "-".join(map(str, one.values())),
)  # fmt: skip
def test_the_chain_passes_the_harness_and_is_timed_in_its_parts(fields, schedule) -> None:
    case, backend = make(**fields), EmulatedFp8(schedule)
    record = run_trial(Problem(case, "cpu", Checks(repeats=1), QUICK, 0, Phases()), backend, timed=True)
    assert record.status == "ok", record.reason
    assert record.measurement.prep_call.about == QUANTIZER and record.measurement.prep_call.samples_s
    assert {"e1", "e2", "e3"} <= set(record.accuracy.values)


@pytest.mark.parametrize("fields", CHAINS[:2], ids=("block", "head"))
def test_one_kernel_reads_what_the_other_wrote(fields) -> None:
    """Straight from the quantize kernel's memory, and from the reference quantizer's tensors: the same output."""
    case, backend = make(**fields), EmulatedFp8("fp8")
    inputs = Problem(case, "cpu", Checks(), QUICK, 0, Phases()).reference.inputs
    made = kernel_quantizer.bind(inputs, case).launch()
    descales = (made.q_descale, made.k_descale, made.v_descale)
    operands = Fp8Operands(made.q, made.k, made.v_transposed, *descales, case_block_size(case))
    library = load(KERNELS / f"{FP8_SCHEDULES['fp8'].file}.cu").library
    chained = bind(library, backend.variant(case), operands, case.causal, case.scale, case.p_scale, torch.bfloat16)
    chained.launch()
    expected = backend.prepare(case, inputs)()
    assert torch.equal(chained.out, expected.out) and torch.equal(chained.lse, expected.lse)


def test_a_quantizer_with_other_bits_is_not_timed() -> None:
    """Another seed of the signs, as a wrong rotation would show: the attention kernel's record says so."""
    case, backend = make(**CHAINS[1]), EmulatedFp8("fp8")
    problem = Problem(case, "cpu", Checks(repeats=0), QUICK, 0, Phases())
    right = problem.reference.inputs
    other = quantize(right.q, right.k, right.v, make(**CHAINS[1], seed=1))
    with pytest.raises(
        KernelError, match="not the reference quantizer's: q in .* values, k in .* values, q_descale in"
    ):
        backend.prep_call(case, replace(right, quantized=other))


def test_descales_that_a_probe_changes_reach_the_attention_kernel() -> None:
    """The probe poses quantized tensors that no quantizer would make; the backend must start from those."""
    case = make(scaling="head", seqlen_q=64, seqlen_k=96, num_heads=1, head_dim=64)
    problem = Problem(case, "cpu", Checks(repeats=0, probes=("descale_zero",)), QUICK, 0, Phases())
    record = run_trial(problem, EmulatedFp8("fp8"), timed=False)
    assert record.status == "ok", record.reason
    assert any("descale_zero" in check.rule for check in record.accuracy.checks), record.accuracy.checks
