"""Quantization problems on the CPU, their launches by the emulated kernel, and what is wrong with the bits."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, fields, replace

import torch
from emulator import EmulatedKernel, Emulator, Schedule
from problem import DTYPES, Outcome, allocate
from torch import Tensor

from attnbench.case import Case
from attnbench.hopper.build import build_emulated
from attnbench.hopper.library import SOURCE, KernelError, QuantizeLibrary
from attnbench.hopper.quantizer import BoundQuantize, DeviceQuantized, Scheme
from attnbench.hopper.toolchain import KERNELS
from attnbench.reference.quantize import quantize

SOURCE_FILE = KERNELS / f"{SOURCE}.cu"
GUARD = 64  # bytes on both sides of an output that a launch must leave alone
SENTINEL = 0xA5


@dataclass(frozen=True)
class QuantizeProblem:
    """Sizes, dtype and layout of q, k, v; inputs: the name of a function of `INPUTS`."""

    head_dim: int
    dtype: str
    scheme: Scheme
    seqlen_q: int = 130
    seqlen_k: int = 300
    batch: int = 1
    num_heads: int = 2
    num_heads_kv: int = 1
    layout: str = "bshd"
    inputs: str = "outliers"

    def __str__(self) -> str:
        s = self.scheme
        size = f" {s.block_size}" if s.scaling == "block" else ""
        return (
            f"{self.dtype} d{self.head_dim} {s.scaling}{size} hadamard={s.hadamard} b{self.batch} "
            f"h{self.num_heads}.{self.num_heads_kv} q{self.seqlen_q} k{self.seqlen_k} {self.layout} {self.inputs}"
        )


def _outliers(x: Tensor, generator: torch.Generator) -> None:
    """Rounding in every binade: magnitudes over many powers of two, and ties of e4m3 among them."""
    x *= 2.0 ** torch.randint(-9, 4, (*x.shape[:2], 1, 1), generator=generator)
    x[..., ::7] *= 20.0


def _special(x: Tensor, generator: torch.Generator) -> None:
    """Zeros of both signs, whole groups of zeros, subnormals, NaN of both signs; every head is different."""
    x[:, ::5] = 0.0
    x[:, 1::5] *= -0.0
    x[:, 40:280, 0] = 0.0  # a block of 128 among them
    x[..., 3] = math.nan
    x[:, 7::11, :, 5] = -math.nan
    x[:, -1] *= 2.0**-24


def _tiny(x: Tensor, generator: torch.Generator) -> None:
    """Descales around the smallest normal number, where the group is scaled or is not."""
    x *= 2.0 ** torch.arange(-142, -112, 30 / x.shape[1])[: x.shape[1], None, None]


def _infinite(x: Tensor, generator: torch.Generator) -> None:
    """Infinities of both signs in some groups, and numbers so large that a rotation overflows."""
    x[:, ::3] *= 1e37
    x[0, 0, 0, 1], x[0, -1, -1, 2] = math.inf, -math.inf


INPUTS = {"outliers": _outliers, "special": _special, "tiny": _tiny, "infinite": _infinite}


def make_operands(problem: QuantizeProblem) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v; the memory around them is NaN."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{problem}".encode()))
    sizes = ((problem.seqlen_q, problem.num_heads),) + ((problem.seqlen_k, problem.num_heads_kv),) * 2
    tensors = []
    for seqlen, heads in sizes:
        shape = (problem.batch, seqlen, heads, problem.head_dim)
        drawn = torch.randn(shape, generator=generator)
        INPUTS[problem.inputs](drawn, generator)
        tensor, _ = allocate(shape, DTYPES[problem.dtype], problem.layout, math.nan)
        tensors.append(tensor.copy_(drawn))
    return tuple(tensors)


def expected(problem: QuantizeProblem, q: Tensor, k: Tensor, v: Tensor) -> DeviceQuantized:
    """The reference quantizer's bits, v rearranged token by token as quantize_abi.h says."""
    scheme = problem.scheme
    case = Case.make(
        batch=problem.batch, seqlen_q=problem.seqlen_q, seqlen_k=problem.seqlen_k, num_heads=problem.num_heads,
        num_heads_kv=problem.num_heads_kv, head_dim=problem.head_dim, dtype="e4m3", scaling=scheme.scaling,
        block_size=scheme.block_size, hadamard=scheme.hadamard, seed=scheme.seed,
    )  # fmt: skip
    made = quantize(q, k, v, case)
    return DeviceQuantized(made.q, made.k, rearranged(made.v), made.q_descale, made.k_descale, made.v_descale)


def rearranged(v: Tensor) -> Tensor:
    """(batch, heads, head_dim, tokens padded to 16), position by position."""
    batch, seqlen, heads, head_dim = v.shape
    out = torch.zeros((batch, heads, head_dim, -(-seqlen // 16) * 16), dtype=torch.uint8)
    for first in range(0, seqlen, 16):
        for t in range(4):
            for position, token in ((0, 2 * t), (1, 2 * t + 1), (2, 8 + 2 * t), (3, 9 + 2 * t)):
                if first + token < seqlen:
                    out[..., first + 4 * t + position] = v.view(torch.uint8)[:, first + token]
    return out.view(v.dtype)


def load_quantizer() -> EmulatedKernel:
    library = QuantizeLibrary(build_emulated(SOURCE_FILE))
    return EmulatedKernel(library, Emulator(library.c_library))


def launch(kernel: EmulatedKernel, problem: QuantizeProblem, operands: tuple[Tensor, Tensor, Tensor],
           want: DeviceQuantized, schedule: Schedule) -> Outcome:  # fmt: skip
    """One launch under one schedule, judged bit by bit. Outputs and workspace hold no zeros beforehand."""
    bound = BoundQuantize.of(kernel.library, *operands, problem.scheme)
    guarded = {field.name: _guarded(getattr(bound.made, field.name)) for field in fields(bound.made)}
    bound = _redirected(bound, guarded)
    workspace = torch.full((bound.args.workspace_bytes + 16,), SENTINEL, dtype=torch.uint8)
    if bound.args.workspace_bytes:
        bound.args.workspace = workspace.data_ptr()
    kernel.emulator.configure(schedule)
    status = 0
    try:
        bound.launch()
    except KernelError as error:
        status = error.status or -1
    hazards = tuple(kernel.emulator.report())
    if bool(status) != bool(hazards):
        return Outcome(hazards, f"status {status} does not fit the report")
    return Outcome(hazards, "" if hazards else _wrong(bound.made, want, guarded, workspace, bound))


def _guarded(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor like this one with GUARD bytes around it, all SENTINEL; and all the memory."""
    size = tensor.numel() * tensor.element_size()
    memory = torch.full((size + 2 * GUARD,), SENTINEL, dtype=torch.uint8)
    return memory[GUARD : GUARD + size].view(tensor.dtype).view(tensor.shape), memory


def _redirected(bound: BoundQuantize, guarded: dict[str, tuple[Tensor, Tensor]]) -> BoundQuantize:
    names = {"q": "q8", "k": "k8", "v_transposed": "v8t"}
    for name, (tensor, _) in guarded.items():
        setattr(bound.args, names.get(name, name), tensor.data_ptr())
    return replace(bound, made=DeviceQuantized(**{name: tensor for name, (tensor, _) in guarded.items()}))


def _wrong(made: DeviceQuantized, want: DeviceQuantized, guarded: dict[str, tuple[Tensor, Tensor]], workspace: Tensor,
           bound: BoundQuantize) -> str:  # fmt: skip
    for name, (_, memory) in guarded.items():
        if not bool((memory[:GUARD] == SENTINEL).all() and (memory[-GUARD:] == SENTINEL).all()):
            return f"wrote outside {name}"
    if not bool((workspace[bound.args.workspace_bytes :] == SENTINEL).all()):
        return "wrote outside the workspace"
    for field in fields(made):
        got, expect = (getattr(one, field.name) for one in (made, want))
        if got.shape != expect.shape:
            return f"{field.name} has shape {tuple(got.shape)}, not {tuple(expect.shape)}"
        bits = torch.int32 if got.dtype == torch.float32 else torch.uint8
        different = got.view(bits) != expect.view(bits)
        if bool(different.any()):
            place = tuple(int(x) for x in torch.unravel_index(different.int().argmax(), different.shape))
            number = int(different.sum())
            return (
                f"{field.name}{list(place)} is {float(got[place])}, not {float(expect[place])}; {number} values differ"
            )
    return ""
