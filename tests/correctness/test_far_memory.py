"""Beyond 2^31 elements: the probe takes little memory, kernels with 32-bit offsets fail it, the judge counts right."""

import dataclasses
import resource

import pytest
import torch

from attnbench.backend import Inputs, Outputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.correctness.probes import PROBES
from attnbench.correctness.relations import REACH, far_apart
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.selftest.forward import TiledForward
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

PROBE = Checks(probes=("far_apart",), repeats=0)


def make(**fields):
    shape = {"batch": 2, "seqlen_q": 40, "seqlen_k": 50, "num_heads": 2, "head_dim": 32, "causal": True}
    return Case.make(**{**shape, **fields})


def trial(backend, case):
    return run_trial(Problem(case, "cpu", PROBE, Timing(), 0, Phases()), backend, timed=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e5m2])
def test_rows_are_far_apart_and_hold_the_same_numbers(dtype):
    tensor = torch.randn(2, 30, 3, 16).to(dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    far = far_apart(tensor)
    assert torch.equal(far.float(), tensor.float())
    last = sum((size - 1) * stride for size, stride in zip(far.shape[:2], far.stride()[:2]))
    assert last >= REACH and far.stride()[2:] == (16, 1) and far.stride(1) % 128 == 0
    assert far.data_ptr() % 128 == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


def test_one_row_cannot_be_far_from_itself():
    tensor = torch.randn(1, 1, 3, 16)
    assert far_apart(tensor) is tensor
    assert PROBES["far_apart"].cannot(make(batch=1, seqlen_q=1, seqlen_k=1)) is not None


@pytest.mark.parametrize(("dtype", "backend"), [("bf16", "naive"), ("fp16", "cpu_flash"), ("e4m3", "fp8_emulated")])
def test_right_backends_pass(dtype, backend):
    record = trial(builtin()[backend], make(dtype=dtype, causal=backend != "cpu_flash"))
    assert record.status == "ok", record.reason
    assert any(check.rule.startswith("far_apart: ") for check in record.accuracy.checks)


class NarrowOffsets(TiledForward):
    """Row offsets wrap at 32 bits, unsigned: what lies past the reach is read from the start of the memory."""

    def heads_first(self, tensor):
        batch, seqlen, heads, dim = tensor.shape
        rows = torch.arange(batch)[:, None] * tensor.stride(0) + torch.arange(seqlen) * tensor.stride(1)
        wrapped = torch.where(rows >= REACH, rows - REACH, rows)
        offsets = wrapped[..., None, None] + torch.arange(heads)[:, None] * tensor.stride(2) + torch.arange(dim)
        memory = tensor.as_strided((tensor.storage_offset() + int(offsets.max()) + 1,), (1,), 0)
        return memory[offsets.flatten() + tensor.storage_offset()].view(tensor.shape).transpose(1, 2)

    def operands(self, case, inputs):
        return inputs.q, inputs.k, inputs.v  # as they lie in memory

    def sweep(self, case, tiles, q, k, v):
        return super().sweep(case, tiles, q.float(), k.float(), v.float())


def test_a_kernel_with_32_bit_offsets_is_caught():
    record = trial(NarrowOffsets(), make())
    assert record.status == "incorrect"
    assert all(check.rule.startswith("far_apart: ") for check in record.accuracy.failures)


class Picky(TiledForward):
    def prepare(self, case, inputs):
        if inputs.q.stride(0) * case.batch >= REACH:
            raise ValueError("q has offsets beyond 32 bits")
        return super().prepare(case, inputs)


def test_a_clean_refusal_is_no_failure():
    record = trial(Picky(), make())
    assert record.status == "ok"
    assert any("refused: q has offsets beyond 32 bits" in check.rule for check in record.accuracy.checks)


def huge():
    """(case, inputs, right outputs) of q and out beyond 2^31 elements, of which one row of pages is real."""
    case = Case.make(batch=2, seqlen_q=REACH // 4096 + 64, seqlen_k=70, num_heads=4, num_heads_kv=1, head_dim=512,
                     dtype="fp16")  # fmt: skip
    small = make_inputs(dataclasses.replace(case, seqlen_q=1))
    q = small.q[:, :, :1].expand(2, case.seqlen_q, 4, 512)
    k, v = small.k, torch.zeros_like(small.v)
    zero = torch.zeros(1, dtype=torch.float16)
    outputs = Outputs(zero.expand(2, case.seqlen_q, 4, 512), None)
    return case, Inputs(q, k, v), outputs


@pytest.mark.full
def test_oracle_and_judge_work_beyond_2_to_the_31():
    """Whole tensors, of which one row is stored; the places that they name lie past the reach."""
    case, inputs, right = huge()
    assert inputs.q.numel() > REACH and right.out.numel() > REACH
    reference = make_reference(case, inputs, "spot")
    assert judge(reference, TiledForward(), right).passed
    out = torch.zeros(right.out.shape, dtype=torch.float16)  # 4 GiB, of pages that are taken when written
    last = (1, case.seqlen_q - 1, 3, 511)
    for value, rule in ((float("nan"), "non-finite outputs"), (1.0, "max error")):
        out[last] = value
        failures = judge(reference, TiledForward(), Outputs(out, None)).failures
        assert rule in [check.rule for check in failures]
        where = next(check.where for check in failures if check.rule == rule)
        assert where.startswith(f"batch 1, head 3, row {case.seqlen_q - 1}")
