"""Small attention problems on the CPU and their fp64 answers, written apart from attnbench/reference.py."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from emulator import EmulatedKernel, Hazard, Schedule
from torch import Tensor

from attnbench.hopper.forward import forward_args
from attnbench.hopper.library import ForwardArgs, KernelError, Variant

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LSE_LIMIT = 1e-3
GUARD = 64  # elements on both sides of an output that a launch must leave alone
SENTINEL = -7.0


@dataclass(frozen=True)
class Problem:
    """Sizes as in abi.h. layout: how q, k, v and out lie in memory."""

    seqlen_q: int
    seqlen_k: int
    batch: int = 1
    num_heads: int = 1
    num_heads_kv: int = 1
    layout: str = "bshd"
    lse: bool = True
    # e4m3 only
    scaling: str = "head"
    p_scale: int = 256
    out_dtype: str = "bf16"

    @property
    def blocks(self) -> bool:
        return self.scaling == "block"

    def __str__(self) -> str:
        heads = f"h{self.num_heads}" + (f".{self.num_heads_kv}" if self.num_heads_kv != self.num_heads else "")
        return f"b{self.batch}-{heads}-q{self.seqlen_q}-k{self.seqlen_k}-{self.layout}"


@dataclass(frozen=True)
class Operands:
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    out: Tensor  # fp64 answer, (batch, seqlen_q, num_heads, head_dim)
    lse: Tensor  # fp64 answer, (batch, num_heads, seqlen_q)

    def args(self, variant: Variant, problem: Problem, out: Tensor, lse: Tensor | None, causal: bool) -> ForwardArgs:
        return forward_args(variant, self.q, self.k, self.v, out, lse, causal, self.scale)

    def out_dtype(self, problem: Problem) -> torch.dtype:
        return self.q.dtype

    def lse_limit(self, accumulator: str) -> float:
        return LSE_LIMIT

    def wrong_output(self, out: Tensor, accumulator: str) -> str:
        """ "" or where an output is too far off. P and the output are each rounded once to the input type; the sums are
        fp32."""
        unit = torch.finfo(out.dtype).eps / 2
        limit = 4 * unit * max(1.0, float(self.out.abs().max()))
        return farthest(out.double() - self.out, torch.tensor(limit))


def largest_lse_error(lse: Tensor, exact: Tensor) -> float:
    """Over rows that see a key; 0 if none does."""
    error = (lse.double() - exact)[exact != -torch.inf].abs()
    return float(error.max()) if error.numel() else 0.0


def farthest(error: Tensor, limit: Tensor) -> str:
    """ "" or the element that exceeds its limit the most."""
    excess = error.abs() - limit
    if float(excess.max()) <= 0:
        return ""
    place = torch.unravel_index(excess.argmax(), error.shape)
    where = ", ".join(str(int(x)) for x in place)
    return f"out[{where}] is off by {float(error[place]):.3g}, limit {float(limit.expand_as(error)[place]):.3g}"


def allocate(shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, fill: float) -> tuple[Tensor, Tensor]:
    """A (batch, seqlen, heads, dim) view in the given memory order, with GUARD elements around; and all the memory."""
    batch, seqlen, heads, dim = shape
    count = batch * seqlen * heads * dim
    memory = torch.full((count + 2 * GUARD,), fill, dtype=dtype)
    inner = memory[GUARD : GUARD + count]
    if layout == "bhsd":
        return inner.view(batch, heads, seqlen, dim).transpose(1, 2), memory
    return inner.view(shape), memory


def make_operands(problem: Problem, dtype: str, head_dim: int, causal: bool) -> Operands:
    """Random inputs, a little louder than N(0, 1) so that the running maxima move; the memory around them is NaN."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{problem}.{dtype}.{head_dim}".encode()))
    tensors = []
    for seqlen, heads in ((problem.seqlen_q, problem.num_heads),) + ((problem.seqlen_k, problem.num_heads_kv),) * 2:
        tensor, _ = allocate((problem.batch, seqlen, heads, head_dim), DTYPES[dtype], problem.layout, float("nan"))
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 1.5)
        tensors.append(tensor)
    scale = head_dim**-0.5
    return Operands(*tensors, scale, *attention_fp64(*tensors, scale, causal))


def attention_fp64(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + mask) v and its lse in fp64; causal is aligned bottom right (abi.h)."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.double().repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k) * scale
    if causal:
        seqlen_q, seqlen_k = scores.shape[2:]
        visible = torch.arange(seqlen_k)[None, :] <= torch.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        scores = scores.masked_fill(~visible, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse)[..., None])
    return torch.einsum("bhij,bjhd->bihd", weights, v), lse


@dataclass(frozen=True)
class Outcome:
    """What a launch did: hazards reported, and what is wrong with its results ("" if nothing)."""

    hazards: tuple[Hazard, ...]
    wrong: str

    @property
    def clean(self) -> bool:
        return not self.hazards and not self.wrong

    def __str__(self) -> str:
        lines = [f"{h.kind} at {h.place}: {h.text}" for h in self.hazards]
        return "\n".join([*lines, self.wrong] if self.wrong else lines)


def launch(kernel: EmulatedKernel, variant: Variant, problem: Problem, operands: Operands, causal: bool,
           schedule: Schedule) -> Outcome:  # fmt: skip
    """One launch under one schedule, judged."""
    shape = (problem.batch, problem.seqlen_q, problem.num_heads, variant.head_dim)
    out, out_memory = allocate(shape, operands.out_dtype(problem), problem.layout, SENTINEL)
    out.fill_(float("nan"))
    lse_memory = torch.full((problem.batch * problem.num_heads * problem.seqlen_q + 2 * GUARD,), SENTINEL)
    lse = lse_memory[GUARD:-GUARD].view(problem.batch, problem.num_heads, problem.seqlen_q)
    lse.fill_(float("nan"))
    args = operands.args(variant, problem, out, lse if problem.lse else None, causal)
    workspace = torch.full((kernel.library.workspace_bytes(args) // 4 + 4,), -1, dtype=torch.int32)
    args.workspace, args.workspace_bytes = workspace.data_ptr(), workspace.numel() * 4
    kernel.emulator.configure(schedule)
    status = 0
    try:
        kernel.library.launch(args)
    except KernelError as error:
        status = error.status or -1
    hazards = tuple(kernel.emulator.report())
    if bool(status) != bool(hazards):
        return Outcome(hazards, f"status {status} does not fit the report")
    accumulator = variant.accumulator if schedule.accumulator == "truncated" else "fp32"
    wrong = "" if hazards else _wrong(out, out_memory, lse, lse_memory, problem, operands, accumulator)
    return Outcome(hazards, wrong)


def _wrong(out: Tensor, out_memory: Tensor, lse: Tensor, lse_memory: Tensor, problem: Problem, want: Operands,
           accumulator: str) -> str:  # fmt: skip
    for name, memory in (("out", out_memory), ("lse", lse_memory)):
        if not bool((memory[:GUARD] == SENTINEL).all() and (memory[-GUARD:] == SENTINEL).all()):
            return f"wrote outside {name}"
    if not bool(torch.isfinite(out).all()):
        return f"{int((~torch.isfinite(out)).sum())} of {out.numel()} outputs are not finite or never written"
    if text := want.wrong_output(out, accumulator):
        return text
    if not problem.lse:
        return "" if bool(torch.isnan(lse).all()) else "wrote an lse that was not asked for"
    if not bool(((lse == -torch.inf) == (want.lse == -torch.inf)).all()):
        return "lse is -inf in the wrong rows"
    error, limit = largest_lse_error(lse, want.lse), want.lse_limit(accumulator)
    return "" if error < limit else f"lse is off by {error:.3g}, limit {limit:.3g}"
