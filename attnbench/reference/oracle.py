"""The fp64 oracle, and the same-precision eager reference whose error is the budget of every kernel.

Both walk over query rows in chunks, so that extra memory does not grow with seqlen squared, and over the same rows:
all of them up to FULL_SEQLEN, beyond that a stratified sample.

The eager reference: scores and softmax in fp32, P rounded to v's dtype, products accumulated in fp32, the output
rounded once; an fp32 q is rounded to the dtype of k, as a product of one type does; by "tf32" all factors are. For e4m3
and e5m2 it is the emulated pipeline: key tiles in order, a running maximum, P times p_scale rounded to the same dtype,
and the accumulator that the kernel declares.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attnbench.backend import Base, Inputs
from attnbench.case import Case
from attnbench.reference.fp8 import matmul_into, to_fp8
from attnbench.reference.int8 import int8_scores
from attnbench.reference.quantize import dequantize

if TYPE_CHECKING:
    import torch
    from torch import Tensor


FULL_SEQLEN = 4096
# Every tile height in use (64, 80, 96, 128, 192, 256) begins and ends near one of these rows, or random ones hit it.
SAMPLE_TILE = 64
SAMPLE_RANDOM_ROWS = 64
SPOT_ROWS = 6
# fp64 scores held at once; three such arrays stay below 200 MiB of extra memory.
CHUNK_BYTES = 16 * 2**20
# The budget of a kernel whose q and k are 8-bit integers, beside those of `fp8.ACCUMULATORS`.
INT8_SCORES = "int8_scores"
# That of one whose fp32 products are tensor cores'.
TF32 = "tf32"
# That of one whose scores are stored in the inputs' 16-bit type before softmax.
SCORES_16BIT = "scores_16bit"
TF32_BITS = -(1 << 13)
# Key tile of the emulated 8-bit pipeline.
FP8_TILE_N = 128


@dataclass(frozen=True, slots=True)
class Rows:
    """Which query rows are compared: index (batch, num_heads, rows), ascending; coverage is "full" or "sampled".

    visible: how many keys each row sees, where that is not what the case says (`hypotheses` asks what a wrong mask
    gives).
    """

    index: Tensor
    coverage: str
    visible: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention at the chosen rows: out (batch, num_heads, rows, head_dim_v), lse (batch, num_heads, rows)."""

    out: Tensor
    lse: Tensor


def choose_rows(case: Case, coverage: str, device: str | torch.device, seed: int | None = None) -> Rows:
    """coverage "auto", "full", "sampled" or "spot"; auto is full up to FULL_SEQLEN queries. seed: of the random rows;
    None: they follow from the case.

    A sample holds the first and last row of every tile of SAMPLE_TILE, and SAMPLE_RANDOM_ROWS random rows a head; a
    spot check holds the first row, the last, and SPOT_ROWS random ones.
    """
    import torch

    if coverage == "auto":
        coverage = "full" if case.seqlen_q <= FULL_SEQLEN else "sampled"
    heads = (case.batch, case.num_heads, 1)
    if coverage == "full":
        return Rows(torch.arange(case.seqlen_q, device=device).repeat(*heads), coverage)
    starts = torch.arange(0, case.seqlen_q, SAMPLE_TILE)
    ends = (starts + SAMPLE_TILE - 1).clamp(max=case.seqlen_q - 1)
    edges = torch.cat((starts, ends)) if coverage == "sampled" else torch.tensor([0, case.seqlen_q - 1])
    generator = torch.Generator().manual_seed(zlib.crc32(f"rows.{case.seed if seed is None else seed}".encode()))
    count = SAMPLE_RANDOM_ROWS if coverage == "sampled" else SPOT_ROWS
    drawn = torch.randint(0, case.seqlen_q, (*heads[:2], count), generator=generator)
    return Rows(torch.cat((edges.repeat(*heads), drawn), dim=-1).sort(dim=-1).values.to(device), coverage)


def visible_keys(case: Case, index: Tensor) -> Tensor:
    """How many keys each query row sees, same shape as `index`."""
    if not case.causal:
        return index.new_full(index.shape, case.seqlen_k)
    return (index + 1 + case.diagonal).clamp(0, case.seqlen_k)


def oracle(case: Case, inputs: Inputs, rows: Rows, originals: bool = False) -> Attention:
    """fp64 attention on the case's inputs; for 8 bits on the dequantized tensors, or on the originals when asked."""
    import torch

    q, k, v = _operands(case, inputs, originals)
    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        scores = (part.queries(q).double() * case.scale) @ part.keys(k).double().mT
        lse, total = _softmax_in_place(scores, part)
        out = (scores @ part.keys(v).double()).div_(total)
        part.store(result, out, lse)
    return result


def rounding_scatter(case: Case, plain: Inputs, rows: Rows, relative: float, absolute: float) -> Tensor:
    """Root sum of squares of what rounding each weight does to the output; (batch, num_heads, rows, head_dim_v), fp64.

    A weight, before it is divided by the row's sum, moves by relative x itself + absolute, and by itself at most. In 8
    bits each row's largest is 1 and stays; in 16 bits a kernel may leave its maximum behind (FlashAttention-4 rescales
    from a factor of 2^8 on), and the largest weight rounds as well. plain: q, k, v as plain tensors, none quantized.
    """
    import torch

    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        weights = (part.queries(plain.q).double() * case.scale) @ part.keys(plain.k).double().mT
        lse, total = _softmax_in_place(weights, part)
        errors = torch.minimum(weights * relative + absolute, weights)
        if part.limit and case.is_fp8:
            errors.scatter_(-1, weights.argmax(dim=-1, keepdim=True), 0.0)
        squares = errors.div_(total).square_() @ part.keys(plain.v).double().square()
        part.store(result, squares.sqrt_(), lse)
    return result.out


def score_scatter(case: Case, plain: Inputs, rows: Rows) -> Attention:
    """What independent errors of standard deviation 1 in every score do to out and lse, to first order: the standard
    deviations sqrt(sum p^2 (v - out)^2) and sqrt(sum p^2). plain: as for `rounding_scatter`."""
    import torch

    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        weights = (part.queries(plain.q).double() * case.scale) @ part.keys(plain.k).double().mT
        _, total = _softmax_in_place(weights, part)
        weights.div_(total)
        v = part.keys(plain.v).double()
        out, squares = weights @ v, weights.square()
        each = squares.sum(dim=-1, keepdim=True)
        spread = squares @ v.square() - 2 * out * (squares @ v) + out.square() * each
        part.store(result, spread.clamp(min=0.0).sqrt(), each.squeeze(-1).sqrt())
    return result


def eager(case: Case, inputs: Inputs, rows: Rows, accumulator: str = "fp32") -> Attention:
    """The same-precision reference on the same inputs, its output rounded to the output dtype (held in fp64).

    accumulator: one of `fp8.ACCUMULATORS`; of a 16-bit case INT8_SCORES, answered with 8-bit integer scores, or
    SCORES_16BIT, with scores rounded to its type; of an fp32 one TF32, with factors of 10 fraction bits.
    """
    import torch

    if accumulator == INT8_SCORES:
        return _eager_int8(case, inputs, rows)
    result = empty_attention(case, rows, torch.float64)
    q, k, v = _operands(case, inputs, originals=False)
    compute = _fp8_pipeline if case.is_fp8 else _eager_plain
    for part in parts(case, rows):
        out, lse = compute(case, part, q, k, v, accumulator)
        part.store(result, out.to(inputs.q.dtype), lse)
    return result


def _eager_int8(case: Case, inputs: Inputs, rows: Rows) -> Attention:
    given, mean = int8_scores(inputs)
    found = eager(case, given, rows)
    mean = mean.repeat_interleave(case.num_heads // case.num_heads_kv, dim=2)
    missed = (given.q * mean).sum(dim=3).transpose(1, 2) * case.scale
    return replace(found, lse=found.lse + missed.gather(2, rows.index))


def emulated(case: Case, inputs: Inputs, rows: Rows, accumulator: str, round_p: bool) -> Attention:
    """The emulated 8-bit pipeline on plain tensors, its output not rounded: what P and the accumulator do alone."""
    import torch

    result = empty_attention(case, rows, torch.float64)
    q, k, v = (tensor.float() for tensor in (inputs.q, inputs.k, inputs.v))
    for part in parts(case, rows):
        part.store(result, *_fp8_pipeline(case, part, q, k, v, accumulator, round_p))
    return result


def _eager_plain(case: Case, part: Part, q: Tensor, k: Tensor, v: Tensor, accumulator: str) -> tuple[Tensor, Tensor]:
    factor = tf32 if accumulator == TF32 and case.dtype == "fp32" else lambda x: x
    queries, keys, values = (factor(x.float()) for x in (part.queries(q.to(k.dtype)), part.keys(k), part.keys(v)))
    scores = (queries @ keys.mT).mul_(case.scale)
    if accumulator == SCORES_16BIT:
        scores = scores.to(v.dtype).float()
    lse, total = _softmax_in_place(scores, part)
    return factor(scores.div_(total).to(v.dtype).float()) @ values, lse


def tf32(x: Tensor) -> Tensor:
    """fp32 x as tensor cores take it for TF32: the low 13 of its 23 fraction bits are ignored (PTX ISA, alternate
    floating-point data formats). A kernel that rounds them to nearest beforehand errs half as much."""
    import torch

    return (x.contiguous().view(torch.int32) & TF32_BITS).view(torch.float32)


def _fp8_pipeline(
    case: Case, part: Part, q: Tensor, k: Tensor, v: Tensor, accumulator: str, round_p: bool = True
) -> tuple[Tensor, Tensor]:
    """Emulated forward: running maximum over key tiles, P * p_scale rounded to the dtype, row sum of unrounded P."""
    import torch

    queries = part.queries(q)
    maximum = queries.new_full((*queries.shape[:-1], 1), -torch.inf)
    total = queries.new_zeros((*queries.shape[:-1], 1))
    out = queries.new_zeros((*queries.shape[:-1], v.shape[-1]))
    for start in range(0, part.limit, FP8_TILE_N):
        stop = min(start + FP8_TILE_N, part.limit)
        keys = part.keys(k)[:, start:stop]
        scores = matmul_into(queries.new_zeros((*queries.shape[:-1], stop - start)), queries, keys.mT, accumulator)
        scores.mul_(case.scale).masked_fill_(part.hidden(start, stop), -torch.inf)
        new_maximum = torch.maximum(maximum, scores.amax(dim=-1, keepdim=True))
        safe = new_maximum.masked_fill(new_maximum == -torch.inf, 0.0)
        rescale = torch.exp(maximum - safe)
        p = torch.exp(scores - safe)
        total = total * rescale + p.sum(dim=-1, keepdim=True)
        p = p * case.p_scale
        if round_p:
            p = to_fp8(p, case.dtype).float()
        out = matmul_into(out * rescale, p, part.keys(v)[:, start:stop], accumulator)
        maximum = new_maximum
    lse = (maximum + total.log()).squeeze(-1)
    return out / (total * case.p_scale).masked_fill(total == 0, 1.0), lse


def _operands(case: Case, inputs: Inputs, originals: bool) -> tuple[Tensor, Tensor, Tensor]:
    quantized = inputs.quantized
    if quantized is None or originals:
        return inputs.q, inputs.k, inputs.v
    return (
        dequantize(quantized.q, quantized.q_descale, case),
        dequantize(quantized.k, quantized.k_descale, case),
        dequantize(quantized.v, quantized.v_descale, case),
    )


def _softmax_in_place(scores: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """scores become exp(scores - max); returns lse (..., rows) and the sum (..., rows, 1), 1 where no key is seen."""
    import torch

    if part.limit == 0:
        return scores.new_full(scores.shape[:-1], -torch.inf), scores.new_ones((*scores.shape[:-1], 1))
    if part.masked:
        scores.masked_fill_(part.hidden(0, part.limit), -torch.inf)
    maximum = scores.amax(dim=-1, keepdim=True)
    scores.sub_(maximum.masked_fill(maximum == -torch.inf, 0.0)).exp_()
    total = scores.sum(dim=-1, keepdim=True)
    return (maximum + total.log()).squeeze(-1), total.masked_fill_(total == 0, 1.0)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of the query heads of one key/value head, or of several where each is small: a loop over many thousands of
    batch elements would take longer than their arithmetic.

    Heads and their rows are flattened behind the pairs of batch element and key/value head, of which there are
    `pairs`. index (batch, heads, rows); visible: keys each row sees, (pairs, heads of a group * rows, 1); limit: the
    most of them.
    """

    batch: slice
    kv_heads: slice
    heads: slice
    chunk: slice
    index: Tensor
    visible: Tensor
    limit: int

    @property
    def pairs(self) -> int:
        return int(self.visible.shape[0])

    def queries(self, q: Tensor) -> Tensor:
        """(pairs, heads * rows, head_dim)"""
        group = q[self.batch, :, self.heads].transpose(1, 2)
        rows = self.index[..., None].expand(*self.index.shape, q.shape[-1])
        return group.gather(2, rows).reshape(self.pairs, -1, q.shape[-1])

    def keys(self, x: Tensor) -> Tensor:
        """(pairs, limit, dim) of k or v: only the keys that some row of the part sees."""
        return x[self.batch, : self.limit, self.kv_heads].transpose(1, 2).flatten(0, 1)

    @property
    def masked(self) -> bool:
        """Whether some row does not see all of the keys."""
        return int(self.visible.min()) < self.limit

    def hidden(self, start: int, stop: int) -> Tensor:
        """True where a row must not see key start <= j < stop; (pairs, heads * rows, stop - start)"""
        import torch

        return torch.arange(start, stop, device=self.visible.device) >= self.visible

    def store(self, result: Attention, out: Tensor, lse: Tensor) -> None:
        shape = self.index.shape
        result.out[self.batch, self.heads, self.chunk] = out.reshape(*shape, -1).to(result.out.dtype)
        result.lse[self.batch, self.heads, self.chunk] = lse.reshape(shape).to(result.lse.dtype)


def parts(case: Case, rows: Rows) -> Iterator[Part]:
    """All rows, in parts of up to CHUNK_BYTES of fp64 scores, keys and values."""
    ratio = case.num_heads // case.num_heads_kv
    count = rows.index.shape[-1]
    step = max(1, CHUNK_BYTES // (8 * case.seqlen_k * ratio))
    pair_bytes = 8 * case.seqlen_k * (ratio * count + case.head_dim + case.head_dim_v)
    heads_at_once = min(case.num_heads_kv, max(1, CHUNK_BYTES // pair_bytes))
    whole = heads_at_once == case.num_heads_kv
    batch_at_once = min(case.batch, max(1, CHUNK_BYTES // (pair_bytes * heads_at_once))) if whole else 1
    for batch in _slices(case.batch, batch_at_once):
        for kv_heads in _slices(case.num_heads_kv, heads_at_once):
            heads = slice(kv_heads.start * ratio, kv_heads.stop * ratio)
            for chunk in _slices(count, step):
                index = rows.index[batch, heads, chunk]
                visible = visible_keys(case, index) if rows.visible is None else rows.visible[batch, heads, chunk]
                pairs = index.shape[0] * (kv_heads.stop - kv_heads.start)
                flat = visible.reshape(pairs, -1, 1)
                yield Part(batch, kv_heads, heads, chunk, index, flat, int(visible.max()))


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def empty_attention(case: Case, rows: Rows, dtype: torch.dtype) -> Attention:
    import torch

    shape = rows.index.shape
    out = torch.empty((*shape, case.head_dim_v), dtype=dtype, device=rows.index.device)
    return Attention(out, torch.empty(shape, dtype=dtype, device=rows.index.device))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the outputs of one case are held against; made once a case, used for every backend.

    originals: the oracle on the unquantized inputs, for 8-bit dtypes. budgets: the eager reference by accumulator, made
    when first asked for. made: the noise of fp32 arithmetic, likewise.
    """

    case: Case
    inputs: Inputs
    rows: Rows
    oracle: Attention
    originals: Attention | None
    budgets: dict[str, Attention] = field(default_factory=dict)
    made: dict[str, Attention] = field(default_factory=dict)

    def eager(self, accumulator: str) -> Attention:
        if accumulator not in self.budgets:
            self.budgets[accumulator] = eager(self.case, self.inputs, self.rows, accumulator)
        return self.budgets[accumulator]

    def budget(self, backend: Base) -> Attention:
        """The eager reference that a backend is held against: with what it declares of its sums and scores."""
        if takes_int8_scores(self.case, backend):
            return self.eager(INT8_SCORES)
        return self.eager(SCORES_16BIT if rounds_scores(self.case, backend) else backend.accumulator)


def sums_in_fp32(case: Case, backend: Base) -> bool:
    """Whether nothing of the case is rounded to fewer digits than fp32 has."""
    return case.dtype == case.key_dtype == "fp32" and backend.accumulator != TF32


def rounds_scores(case: Case, backend: Base) -> bool:
    """Whether the scores of a 16-bit case may be stored in its type before softmax."""
    return backend.scores_16bit and case.dtype in ("fp16", "bf16")


def takes_int8_scores(case: Case, backend: Base) -> bool:
    """Whether q and k, given in 16 bits, may be rounded to 8-bit integers; 8-bit floats have a budget of their own."""
    return backend.scores_int8 and not case.is_fp8


def make_reference(case: Case, inputs: Inputs, coverage: str = "auto", seed: int | None = None) -> Reference:
    """The oracle at the rows that `coverage` and `seed` choose, as `choose_rows` says."""
    rows = choose_rows(case, coverage, inputs.q.device, seed)
    exact = oracle(case, inputs, rows)
    originals = oracle(case, inputs, rows, originals=True) if case.is_fp8 else None
    return Reference(case, inputs, rows, exact, originals)


def row_place(rows: Rows, flat: int) -> str:
    """A flat index into (batch, num_heads, rows) in words."""
    _, heads, count = rows.index.shape
    batch, head = flat // (heads * count), flat // count % heads
    return f"batch {batch}, head {head}, row {int(rows.index.flatten()[flat])}"
