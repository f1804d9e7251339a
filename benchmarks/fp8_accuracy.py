"""Accuracy figures of the FP8 kernels that need no GPU. `python benchmarks/fp8_accuracy.py [LONGEST]`, minutes on two cores.

1. E1 of the emulated kernels over the emulated pipeline's, by accumulator: 1.3 is the judge's limit.
2. E3 on the FlashAttention-3 paper's outlier inputs: per-tensor baseline over block scaling with Hadamard.
3. Relative error against seqlen with values of one sign, one and two levels: the pipeline to LONGEST (128k), the
   emulated kernels to KERNEL_LONGEST. The emulation's truncated sums are a model from publications, not hardware.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "emulation")]

from attnbench import reference  # noqa: E402
from attnbench.backend import Inputs  # noqa: E402
from attnbench.case import Case  # noqa: E402
from attnbench.inputs import make_inputs  # noqa: E402
from attnbench.judge import relative_errors  # noqa: E402
from attnbench.kernel_fp8 import bind, reference_operands  # noqa: E402
from attnbench.kernel_recipe import KERNELS  # noqa: E402
from attnbench.kernel_schedules import FP8_SCHEDULES  # noqa: E402
from attnbench.quantize import quantize  # noqa: E402
from emulator import EmulatedKernel, Schedule  # noqa: E402

SHORTEST, LONGEST, KERNEL_LONGEST = 1024, 131072, 8192
ROWS = 8  # queries of the error against seqlen
SEEDS = range(3)


def kernel_out(kernel: EmulatedKernel, schedule: str, case: Case, inputs: Inputs) -> torch.Tensor:
    """(batch, num_heads, seqlen_q, head_dim) in fp64, by the emulated kernel with truncated sums."""
    kernel.emulator.configure(Schedule(accumulator="truncated"))
    operands = reference_operands(case, inputs.quantized)
    variant = kernel.library.find(schedule, "e4m3", case.head_dim, case.causal, case.scaling == "block")
    bound = bind(kernel.library, variant, operands, case.causal, case.scale, case.p_scale, torch.bfloat16)
    bound.launch()
    return bound.out.transpose(1, 2).double()


def rmse(out: torch.Tensor, exact: torch.Tensor) -> float:
    return relative_errors(out.double(), exact).rmse


def e1_ratios(kernel: EmulatedKernel) -> list[tuple]:
    rows = []
    for schedule, facts in FP8_SCHEDULES.items():
        for head_dim in (64, 128, 256):
            for scaling in ("head", "block"):
                case = Case.make(batch=1, seqlen_q=130, seqlen_k=700, num_heads=2, num_heads_kv=1, head_dim=head_dim,
                                 dtype="e4m3", causal=True, scaling=scaling, inputs="outliers")  # fmt: skip
                inputs, every = make_inputs(case), reference.choose_rows(case, "full", "cpu")
                exact = reference.oracle(case, inputs, every).out
                eager = rmse(reference.eager(case, inputs, every, facts.accumulator).out, exact)
                e1 = rmse(kernel_out(kernel, schedule, case, inputs), exact)
                rows.append((schedule, head_dim, scaling, e1, eager, e1 / eager))
    return rows


def e3_ratios(kernel: EmulatedKernel) -> list[tuple]:
    """RMSE end to end at 1024 keys; the baseline scales per tensor without P scale, as the paper's does."""
    rows = []
    for seed in SEEDS:
        case = Case.make(batch=1, seqlen_q=256, seqlen_k=1024, num_heads=1, head_dim=128, dtype="e4m3", inputs="outliers",
                         scaling="block", hadamard=True, seed=seed)  # fmt: skip
        plain = replace(case, scaling="tensor", hadamard=False, p_scale=1)
        every = reference.choose_rows(case, "full", "cpu")
        inputs, baseline = make_inputs(case), make_inputs(plain)
        exact = reference.oracle(case, inputs, every, originals=True).out
        base = rmse(reference.eager(plain, baseline, every, "fp32").out, exact)
        ours = [rmse(kernel_out(kernel, schedule, case, inputs), exact) for schedule in FP8_SCHEDULES]
        rows.append((seed, base, *ours, *(base / error for error in ours)))
    return rows


def same_sign(seqlen: int) -> tuple[Case, Inputs]:
    """Values of one sign, about even weights: sums that grow all the way."""
    case = Case.make(batch=1, seqlen_q=ROWS, seqlen_k=seqlen, num_heads=1, head_dim=128, dtype="e4m3", scaling="block")
    generator = torch.Generator().manual_seed(seqlen)
    q, k, v = (torch.randn((1, size, 1, 128), generator=generator).bfloat16() for size in (ROWS, seqlen, seqlen))
    q, v = q * 0.25, v.abs() + 0.5
    return case, Inputs(q, k, v, quantize(q, k, v, case))


def against_seqlen(kernel: EmulatedKernel, longest: int) -> list[tuple]:
    rows, seqlen = [], SHORTEST
    while seqlen <= longest:
        case, inputs = same_sign(seqlen)
        every = reference.choose_rows(case, "full", "cpu")
        exact = reference.oracle(case, inputs, every).out
        pipeline = [rmse(reference.emulated(case, _plain(case, inputs), every, accumulator, True).out, exact)
                    for accumulator in ("fp32", "hopper", "two_level")]  # fmt: skip
        kernels = ["-"] * len(FP8_SCHEDULES)
        if seqlen <= KERNEL_LONGEST:
            kernels = [rmse(kernel_out(kernel, schedule, case, inputs), exact) for schedule in FP8_SCHEDULES]
        rows.append((seqlen, *pipeline, *kernels))
        seqlen *= 2
    return rows


def _plain(case: Case, inputs: Inputs) -> Inputs:
    """The dequantized tensors as `reference.emulated` wants them: its output is not rounded to bf16."""
    from attnbench.quantize import dequantize

    stored = inputs.quantized
    pairs = ((stored.q, stored.q_descale), (stored.k, stored.k_descale), (stored.v, stored.v_descale))
    return Inputs(*(dequantize(tensor, descale, case) for tensor, descale in pairs))


def main() -> None:
    longest = int(sys.argv[1]) if len(sys.argv) > 1 else LONGEST
    kernel = EmulatedKernel.build(KERNELS / "fwd_fp8.cu")
    print(tabulate(e1_ratios(kernel), ("schedule", "head_dim", "scaling", "E1", "pipeline", "ratio"), floatfmt=".4g"))
    headers = ("seed", "E3 baseline", *FP8_SCHEDULES, *(f"baseline / {name}" for name in FP8_SCHEDULES))
    print("\n" + tabulate(e3_ratios(kernel), headers, floatfmt=".4g"))
    headers = ("seqlen_k", "pipeline fp32", "hopper", "two_level", *(f"kernel {name}" for name in FP8_SCHEDULES))
    print("\n" + tabulate(against_seqlen(kernel, longest), headers, floatfmt=".4g"))


if __name__ == "__main__":
    main()
