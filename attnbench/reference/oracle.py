"""The fp64 oracle, and the same-precision eager reference whose error is the budget of every kernel.

Both walk over query rows in chunks, so that extra memory does not grow with seqlen squared, and over the same rows:
all of them up to FULL_SEQLEN, beyond that a stratified sample.

The eager reference: scores and softmax in fp32, P rounded to v's dtype, products accumulated in fp32, the output
rounded once; an fp32 q is rounded to the dtype of k, as a product of one type does; by "tf32" all factors are. For e4m3
and e5m2 it is `fp8_pipeline`, with the accumulator that the kernel declares.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from attnbench.backend import Base, Inputs
from attnbench.case import Case
from attnbench.reference import fp8_pipeline
from attnbench.reference.int8 import int8_scores
from attnbench.reference.quantize import dequantize
from attnbench.reference.rows import Attention, Part, Rows, choose_rows, empty_attention, parts

if TYPE_CHECKING:
    from torch import Tensor


# The budget of a kernel whose q and k are 8-bit integers, beside those of `fp8.ACCUMULATORS`.
INT8_SCORES = "int8_scores"
# That of one whose fp32 products are tensor cores'.
TF32 = "tf32"
# That of one whose scores are stored in the inputs' 16-bit type before softmax.
SCORES_16BIT = "scores_16bit"
TF32_BITS = -(1 << 13)


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
    stored = fp8_pipeline.stored_inputs(case, inputs) if case.is_fp8 else None
    for part in parts(case, rows):
        if stored is None:
            out, lse = _eager_plain(case, part, inputs.q, inputs.k, inputs.v, accumulator)
        else:
            out, lse = fp8_pipeline.forward(case, part, stored, accumulator)
        part.store(result, out.to(inputs.q.dtype), lse)
    return result


def _eager_int8(case: Case, inputs: Inputs, rows: Rows) -> Attention:
    given, mean = int8_scores(inputs)
    found = eager(case, given, rows)
    mean = mean.repeat_interleave(case.num_heads // case.num_heads_kv, dim=2)
    missed = (given.q * mean).sum(dim=3).transpose(1, 2) * case.scale
    return replace(found, lse=found.lse + missed.gather(2, rows.index))


def emulated(case: Case, inputs: Inputs, rows: Rows, accumulator: str, round_p: bool) -> Attention:
    """The emulated 8-bit pipeline, its output not rounded: on plain tensors, what P and the accumulator do alone."""
    import torch

    result = empty_attention(case, rows, torch.float64)
    given = fp8_pipeline.stored_inputs(case, inputs)
    for part in parts(case, rows):
        part.store(result, *fp8_pipeline.forward(case, part, given, accumulator, round_p))
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
class Reference:
    """What the outputs of one case are held against; made once a case, used for every backend.

    originals: the oracle on the unquantized inputs, for 8-bit dtypes. budgets: the eager reference by accumulator, made
    when first asked for. made: the noise of fp32 arithmetic, likewise. looked: what others keep with it, by their name.
    """

    case: Case
    inputs: Inputs
    rows: Rows
    oracle: Attention
    originals: Attention | None
    budgets: dict[str, Attention] = field(default_factory=dict)
    made: dict[str, Attention] = field(default_factory=dict)
    looked: dict[str, Any] = field(default_factory=dict)

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
