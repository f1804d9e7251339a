"""A right fused forward in torch, key tile by key tile, with the choices that right kernels differ in.

`selftest` spoils one method at a time (`planted`) and shows that the checks notice, and runs the right variants to show
that they accuse nobody. It is deliberately the algorithm of a fused kernel (online softmax, FlashAttention-2, arXiv
2307.08691, section 3.1) and not of the eager reference, so that bugs of such kernels have a place to be put.
All heads and query rows of a tile column are computed at once, in fp32; only the order of keys is a kernel's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from attnbench.backend import Base, Call, Inputs, Outputs, Quantized
from attnbench.case import DTYPES, Case, alignments_differ
from attnbench.reference.fp8 import matmul_into, to_fp8
from attnbench.reference.quantize import dequantize

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# Of fp32's normal numbers.
SMALLEST_EXPONENT = -126
# Rows of q and of k that share a scale where they are 8-bit integers.
BLOCK_M = 64
BLOCK_N = 64
# FlashAttention-4's polynomial for 2**x on [0, 1) (flash_attn/cute/utils.py), found by minimax.
CUBIC = (1.0, 0.695146143436431884765625, 0.227564394474029541015625, 0.077119089663028717041015625)


@dataclass
class Running:
    """The state of online softmax: maximum and total (batch, heads, seqlen_q, 1), out (batch, heads, seqlen_q, d_v)."""

    maximum: Tensor
    total: Tensor
    out: Tensor


@dataclass(frozen=True)
class Choices:
    """What right kernels choose differently. tile_n: keys a tile; backwards: last tile first; splits: parts of the keys
    that are combined by their lse; partials_16bit: each part is rounded to the output's dtype before; p_fp32: P is not
    rounded; sum_rounded: the row sum is that of the rounded P; cubic_exp2: exp2 by a polynomial (FlashAttention-4);
    lazy_rescale: a maximum that rises by less (natural log) leaves the running one; normalize_first: P is divided by
    its row's sum before it is rounded, in two passes; top_left: the causal mask hangs at the other corner, which is the
    same on square shapes; int8_scores: q and k are 8-bit integers, k without its mean (SageAttention)."""

    tile_n: int = 64
    backwards: bool = False
    splits: int = 1
    partials_16bit: bool = False
    p_fp32: bool = False
    sum_rounded: bool = False
    cubic_exp2: bool = False
    lazy_rescale: float = 0.0
    normalize_first: bool = False
    top_left: bool = False
    int8_scores: bool = False

    def __str__(self) -> str:
        words = [f"tile_n {self.tile_n}", f"splits {self.splits}" if self.splits > 1 else ""]
        words += [field.name for field in fields(self) if getattr(self, field.name) is True]
        words += [f"lazy_rescale {self.lazy_rescale:g}"] if self.lazy_rescale else []
        return ", ".join(filter(None, words))


def cubic_exp2(x: Tensor) -> Tensor:
    """2**x of x <= 0 by its whole part and a cubic of the rest, 8.8e-5 off at most."""
    import torch

    whole = x.floor().clamp(min=SMALLEST_EXPONENT)
    rest = (x - whole).clamp(min=0.0)
    cubic = CUBIC[0] + rest * (CUBIC[1] + rest * (CUBIC[2] + rest * CUBIC[3]))
    return torch.where(x < SMALLEST_EXPONENT, torch.zeros_like(x), torch.ldexp(cubic, whole.int()))


class TiledForward(Base):
    """A backend of every dtype. Every method is a decision that one of the planted bugs gets wrong."""

    name = "tiled"

    def __init__(self, choices: Choices = Choices()):
        self.choices = choices

    @property
    def partials_16bit(self) -> bool:  # type: ignore[override]  # read only, as everybody uses it
        return self.choices.partials_16bit

    @property
    def scores_int8(self) -> bool:  # type: ignore[override]  # likewise
        return self.choices.int8_scores

    def version(self) -> str:
        return str(self.choices)

    def unsupported(self, case: Case) -> str | None:
        if self.choices.top_left and case.mask_alignment != "top_left" and alignments_differ(case):
            return "its causal mask is top-left aligned"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return lambda: self.forward(case, inputs)

    def forward(self, case: Case, inputs: Inputs) -> Outputs:
        q, k, v = (self.heads_first(tensor) for tensor in self.operands(case, inputs))
        k, v = (tensor[:, self.kv_heads(case, tensor)] for tensor in (k, v))
        tiles = self.tiles(case)
        parts = [tiles[start :: self.choices.splits] for start in range(min(self.choices.splits, len(tiles)))]
        swept = [self.sweep(case, part, q, k, v) for part in parts]
        if self.choices.partials_16bit:
            swept = [self.stored(part, inputs.q.dtype) for part in swept]
        out, lse = self.combine(swept)
        return self.finish(case, inputs, out, lse)

    def operands(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v in fp32, in the layout of Inputs."""
        if inputs.quantized is None:
            q, k, v = inputs.q.float(), inputs.k.float(), inputs.v.float()
            return (*self.integers(q, k), v) if self.choices.int8_scores else (q, k, v)
        held = inputs.quantized
        q, k, v = self.descales(held)
        return dequantize(held.q, q, case), dequantize(held.k, k, case), dequantize(held.v, v, case)

    def integers(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """As whole numbers up to 127 times a scale, in blocks of rows; the mean of all keys is back afterwards."""
        mean = k.mean(dim=1, keepdim=True)
        return self.in_blocks(q, BLOCK_M), self.in_blocks(k - mean, BLOCK_N) + mean

    def in_blocks(self, x: Tensor, rows: int) -> Tensor:
        import torch

        blocks = []
        for block in x.split(rows, dim=1):
            unit = block.abs().amax(dim=(1, 3), keepdim=True).clamp(min=1e-30) / 127.0
            blocks.append((block / unit).round() * unit)
        return torch.cat(blocks, dim=1)

    def descales(self, held: Quantized) -> tuple[Tensor, Tensor, Tensor]:
        return held.q_descale, held.k_descale, held.v_descale

    def heads_first(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2)

    def kv_heads(self, case: Case, tensor: Tensor) -> Tensor:
        """The key/value head of each query head."""
        import torch

        return torch.arange(case.num_heads, device=tensor.device) // (case.num_heads // case.num_heads_kv)

    def tiles(self, case: Case) -> list[tuple[int, int]]:
        """(first key, key after the last) of each tile, in the order of the sweep."""
        width = self.choices.tile_n
        tiles = [(start, min(start + width, case.seqlen_k)) for start in range(0, case.seqlen_k, width)]
        return tiles[::-1] if self.choices.backwards else tiles

    def scale(self, case: Case) -> float:
        return case.scale

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        """(seqlen_q, stop - start), True where a query must not see a key; None where the tile needs no mask."""
        import torch

        if not case.causal:
            return None
        offset = 0 if self.choices.top_left else case.diagonal
        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + offset
        return torch.arange(start, stop, device=q.device) > last

    def scores(self, case: Case, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        scores = self.product(q, k[:, :, start:stop].transpose(2, 3)).mul_(self.scale(case))
        hidden = self.hidden(case, start, stop, q)
        return scores if hidden is None else scores.masked_fill_(hidden, -math.inf)

    def product(self, a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
        """a @ b + into, summed as the accumulator that the kernel uses."""
        return a @ b if into is None else matmul_into(into, a, b, "fp32")

    def sweep(self, case: Case, tiles: list[tuple[int, int]], q: Tensor, k: Tensor, v: Tensor) -> Running:
        """Online softmax over the tiles of one part."""
        heads = q.shape[:-1]
        zeros = (q.new_zeros((*heads, width)) for width in (1, v.shape[-1]))
        state = Running(q.new_full((*heads, 1), -math.inf), *zeros)
        if self.choices.normalize_first:
            self.first_pass(case, tiles, q, k, state)
        for number, (start, stop) in enumerate(tiles):
            scores = self.scores(case, q, k, start, stop)
            self.step(case, state, number, scores, v[:, :, start:stop])
        return state

    def first_pass(self, case: Case, tiles: list[tuple[int, int]], q: Tensor, k: Tensor, state: Running) -> None:
        """Leaves the final lse as the maximum that the second pass subtracts, so that P comes out normalized."""
        import torch

        lse = torch.cat([self.scores(case, q, k, start, stop) for start, stop in tiles], dim=-1)
        state.maximum = lse.logsumexp(dim=-1, keepdim=True)

    def step(self, case: Case, state: Running, number: int, scores: Tensor, v: Tensor) -> None:
        maximum = self.new_maximum(state, number, scores)
        safe = maximum.masked_fill(maximum == -math.inf, 0.0)
        rescale = self.rescale(state, safe)
        p = self.weights(state, number, scores, safe)
        rounded = self.rounded(case, p)
        state.total = state.total * rescale + (rounded if self.choices.sum_rounded else p).sum(dim=-1, keepdim=True)
        state.out = self.add_values(state.out * rescale, rounded, v)
        state.maximum = maximum

    def new_maximum(self, state: Running, number: int, scores: Tensor) -> Tensor:
        import torch

        if self.choices.normalize_first:
            return state.maximum
        largest = torch.maximum(state.maximum, scores.amax(dim=-1, keepdim=True))
        if self.choices.lazy_rescale:
            small = (largest - state.maximum) < self.choices.lazy_rescale
            largest = torch.where(small, state.maximum, largest)
        return largest

    def weights(self, state: Running, number: int, scores: Tensor, maximum: Tensor) -> Tensor:
        return cubic_exp2((scores - maximum) / math.log(2.0)) if self.choices.cubic_exp2 else (scores - maximum).exp()

    def rescale(self, state: Running, maximum: Tensor) -> Tensor:
        """What brings sums made with the old maximum to the new one."""
        import torch

        factor = (state.maximum - maximum).exp()
        return torch.where(state.maximum == -math.inf, torch.zeros_like(factor), factor)

    def rounded(self, case: Case, p: Tensor) -> Tensor:
        """P as the second product takes it; 8 bits: times p_scale."""
        import torch

        if case.is_fp8:
            return to_fp8(p * case.p_scale, case.dtype).float() / case.p_scale
        if self.choices.p_fp32 or case.dtype == "fp32":
            return p
        return p.to(torch.float16 if case.dtype == "fp16" else torch.bfloat16).float()

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return self.product(p, v, out)

    def stored(self, part: Running, dtype: torch.dtype) -> Running:
        """A part as its kernel leaves it for another one to combine: normalized, in 16 bits, and the lse."""
        import torch

        total = part.total.masked_fill(part.total == 0, 1.0)
        lse = part.maximum + part.total.log()
        weight = torch.where(lse == -math.inf, torch.zeros_like(lse), torch.ones_like(lse))
        return Running(lse, weight, (part.out / total).to(dtype).float())

    def combine(self, parts: list[Running]) -> tuple[Tensor, Tensor]:
        """out (batch, heads, seqlen_q, d_v) and lse (batch, heads, seqlen_q) of the parts together."""
        import torch

        maximum = torch.stack([part.maximum for part in parts]).amax(dim=0)
        safe = maximum.masked_fill(maximum == -math.inf, 0.0)
        total, out = torch.zeros_like(maximum), torch.zeros_like(parts[0].out)
        for part in parts:
            weight = (part.maximum - safe).exp()
            total = total + part.total * weight
            out = out + part.out * weight
        out = out / total.masked_fill(total == 0, 1.0)
        return out, (maximum + total.log()).squeeze(-1)

    def finish(self, case: Case, inputs: Inputs, out: Tensor, lse: Tensor) -> Outputs:
        return Outputs(out.transpose(1, 2).to(inputs.q.dtype).contiguous(), lse.contiguous())


# What a planted bug is: the right forward of `planted_forward` with one method overridden, the one it lives in.


class Planted(TiledForward):
    """A forward with one bug. `dtypes`: where it can be; `causal_only`: it lies in the mask."""

    dtypes: tuple[str, ...] = DTYPES
    causal_only = False

    def __init__(self, choices: Choices = Choices()):
        super().__init__(choices)
        self.name = _words(type(self).__name__)

    def unsupported(self, case: Case) -> str | None:
        if case.dtype not in self.dtypes:
            return f"the bug is one of {', '.join(self.dtypes)}"
        return "the bug lies in the causal mask" if self.causal_only and not case.causal else None


def _words(name: str) -> str:
    """`MaskSeesOneMore` -> `mask sees one more`"""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
