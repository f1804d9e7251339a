"""Small FP8 attention problems: e4m3 inputs, descales that differ from block to block, and how far off is too far."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from problem import (
    DTYPES,
    LSE_LIMIT,
    Operands,
    Problem,
    allocate,
    attention_fp64,
    farthest,
    largest_lse_error,
    make_operands,
)
from torch import Tensor

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.hopper.forward import Fp8Operands, fp8_args
from attnbench.hopper.library import ForwardArgs, Variant, transpose_values
from attnbench.reference import oracle
from attnbench.reference.quantize import dequantize, quantize_tensor
from attnbench.reference.rows import choose_rows

BLOCK_SIZE = 128
# How much louder one block of tokens is than another: neighbours differ, so that a wrong block's descale shows.
LOUDNESS = {"q": (1.0, 0.5, 1.5), "k": (1.0, 0.4, 1.6, 0.7), "v": (1.0, 8.0, 0.25, 3.0)}
# E1: root mean square error at most this times the emulated pipeline's (attnbench.correctness.judge.Factors).
E1_FACTOR = 1.3
# Largest error of an lse where sums are cut: at most this times the emulated pipeline's (attnbench.correctness.judge).
LSE_FACTOR = 4.0
# e4m3 keeps three fraction bits, and steps of 2^-9 below its smallest normal number.
WEIGHT_UNIT, WEIGHT_STEP = 2.0**-4, 2.0**-10
# A sum of 14 aligned bits loses up to one of them at each step of 32 keys.
TRUNCATED_UNIT, STEP_KEYS = 2.0**-12, 32


@dataclass(frozen=True)
class PipelineErrors:
    """Of the reference's `eager` against fp64. rms: of the output, no less than bf16's own. lse: the largest."""

    rms: float
    lse: float


@dataclass(frozen=True)
class Fp8Problem(Operands):
    """q, k, v: e4m3. bound: how far each output may be off by rounding weights; pipeline: the emulated pipeline's
    errors by accumulator."""

    operands: Fp8Operands
    bound: Tensor
    pipeline: Callable[[str], PipelineErrors]

    def args(self, variant: Variant, problem: Problem, out: Tensor, lse: Tensor | None, causal: bool) -> ForwardArgs:
        return fp8_args(variant, self.operands, out, lse, causal, self.scale, problem.p_scale)

    def out_dtype(self, problem: Problem) -> torch.dtype:
        return DTYPES[problem.out_dtype]

    def lse_limit(self, accumulator: str) -> float:
        return LSE_LIMIT if accumulator == "fp32" else max(LSE_LIMIT, LSE_FACTOR * self.pipeline(accumulator).lse)

    def wrong_output(self, out: Tensor, accumulator: str) -> str:
        error = out.double() - self.out
        rounding = torch.finfo(out.dtype).eps * self.out.abs()
        truncation = 0.0
        if accumulator != "fp32":
            steps = self.k.shape[1] / STEP_KEYS + 1
            truncation = TRUNCATED_UNIT * steps * float(self.bound.max()) / WEIGHT_UNIT
        text = farthest(error, self.bound + rounding + truncation)
        rms, limit = float(error.square().mean().sqrt()), E1_FACTOR * self.pipeline(accumulator).rms
        return text or ("" if rms <= limit else f"E1 is {rms:.3g}, limit {limit:.3g} by accumulator {accumulator}")


@lru_cache(maxsize=64)
def operands(problem: Problem, dtype: str, head_dim: int, causal: bool) -> Operands:
    """The inputs of a problem in any dtype, with the right answer."""
    if dtype == "e4m3":
        return make_fp8_operands(problem, head_dim, causal)
    return make_operands(problem, dtype, head_dim, causal)


def _draw(problem: Problem, name: str, head_dim: int, seed: str) -> Tensor:
    """fp32 (batch, seqlen, heads, head_dim), the loudness of its blocks of tokens and of its heads different."""
    queries = name == "q"
    seqlen, heads = (problem.seqlen_q, problem.num_heads) if queries else (problem.seqlen_k, problem.num_heads_kv)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}.{name}".encode()))
    drawn = torch.randn((problem.batch, seqlen, heads, head_dim), generator=generator)
    levels = torch.tensor(LOUDNESS[name])
    of_token = levels[torch.arange(seqlen) // BLOCK_SIZE % len(levels)]
    of_head = levels[torch.arange(problem.batch * heads) % len(levels)].view(problem.batch, 1, heads, 1)
    return drawn * of_token[:, None, None] * of_head


def make_fp8_operands(problem: Problem, head_dim: int, causal: bool) -> Fp8Problem:
    """Quantized inputs in the problem's layout; the memory around q and k is NaN."""
    case = Case.make(
        batch=problem.batch, seqlen_q=problem.seqlen_q, seqlen_k=problem.seqlen_k, num_heads=problem.num_heads,
        num_heads_kv=problem.num_heads_kv, head_dim=head_dim, dtype="e4m3", causal=causal, scaling=problem.scaling,
        block_size=BLOCK_SIZE, p_scale=problem.p_scale,
    )  # fmt: skip
    seed = f"{problem}.{problem.scaling}.{head_dim}"
    pairs = [quantize_tensor(_draw(problem, name, head_dim, seed), problem.scaling, BLOCK_SIZE) for name in "qkv"]
    stored, descales = zip(*pairs)
    q, k = (_placed(tensor, problem.layout) for tensor in stored[:2])
    quantized = Quantized(q, k, stored[2], *descales)
    real = [dequantize(x, descale, case).double() for x, descale in zip((q, k, stored[2]), descales)]
    out, lse = attention_fp64(*real, case.scale, causal)
    magnitude, _ = attention_fp64(*real[:2], real[2].abs(), case.scale, causal)
    group = problem.num_heads // problem.num_heads_kv
    flushed = real[2].abs().sum(dim=1, keepdim=True).repeat_interleave(group, dim=2) * WEIGHT_STEP / problem.p_scale
    inputs = Inputs(*(tensor.bfloat16() for tensor in real), quantized)
    operands = Fp8Operands(q, k, transpose_values(stored[2]), *descales, BLOCK_SIZE if problem.blocks else 0)
    # Most launches sum in fp32: the truncated pipelines take many times as long as the launch, and wait to be asked.
    pipeline = lru_cache(maxsize=None)(partial(_pipeline_errors, case, inputs, out, lse))
    return Fp8Problem(q, k, stored[2], case.scale, out, lse, operands, WEIGHT_UNIT * magnitude + flushed, pipeline)


def _placed(tensor: Tensor, layout: str) -> Tensor:
    placed, _ = allocate(tensor.shape, tensor.dtype, layout, float("nan"))
    return placed.copy_(tensor)


def _pipeline_errors(case: Case, inputs: Inputs, out: Tensor, lse: Tensor, accumulator: str) -> PipelineErrors:
    floor = 2.0**-8 * float(out.square().mean().sqrt())
    made = oracle.eager(case, inputs, choose_rows(case, "full", "cpu"), accumulator)
    error = made.out.transpose(1, 2) - out
    return PipelineErrors(max(float(error.square().mean().sqrt()), floor), largest_lse_error(made.lse, lse))
