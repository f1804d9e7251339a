"""Rules of their own for inputs whose right answer is known beforehand, beside the judge's.

The judge compares with the oracle within what rounding allows on average; these hold every element, or the mean of all
of them, to what the inputs make exact. Each rule says why a right kernel keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from attnbench.records.record import Check
from attnbench.reference.distributions import NEEDLE_KEYS
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.rows import Rows, row_place, visible_keys

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.case import Case


# A row counts as retrieved when the oracle leaves less than this of any other: far below every dtype's rounding.
RETRIEVED = 1e-9
# Sums in fp32 of up to 2^20 terms lose less than this of their largest.
FP32_SUM = 2.0**-14
# A right kernel's mean signed error is what is left of rounding noise after averaging: a small part of u.
BIAS_PART = 1 / 16
# Of a mean, what is left to chance.
CHANCE_SIGMAS = 4.0
# Times what a scale rounded to the inputs' type does.
SCALE_ALLOWANCE = 1.2


class Known(NamedTuple):
    """What a rule sees: fp64 tensors (batch, num_heads, rows, head_dim_v), v as the kernel got it (dequantized, fp32)
    in the layout of Inputs; u is half the machine epsilon of the output dtype, or what 16-bit partials make of it.

    exact_accumulator: sums are in fp32; exact_v: the kernel does not quantize v itself; exact_partials: it keeps no
    partial results in 16 bits; single: nothing is rounded to fewer digits than fp32 has, and u is what its sums err.
    rescaled: the oracle with the softmax scale rounded to the inputs' type; None where that rounds nothing.
    """

    case: Case
    rows: Rows
    v: Tensor
    out: Tensor
    exact: Tensor
    eager: Tensor
    u: float
    exact_accumulator: bool
    exact_v: bool
    exact_partials: bool
    single: bool
    rescaled: Callable[[], Tensor | None]


def own_checks(inputs: str, known: Callable[[], Known]) -> list[Check]:
    """The checks of the rule that the case's inputs have; none for inputs without one, which then needs no v."""
    rule = _RULES.get(inputs)
    return [] if rule is None else rule(known())


def _retrieval(known: Known) -> list[Check]:
    """Every element of a retrieved row is that of v. In fp16 and bf16 bit for bit: P is 1, and v has no digit to lose;
    in 8 bits within one unit in the last place, since v times its descale is rounded, and in fp32 within what its
    weight and the sum of weights may differ by. A kernel that quantizes v itself
    retrieves what it made of it, which nobody else knows."""
    import torch

    if not known.exact_v:
        return []

    case = known.case
    target = NEEDLE_KEYS[case.inputs](case).to(known.out.device)
    head = torch.arange(case.num_heads, device=known.out.device) // (case.num_heads // case.num_heads_kv)
    wanted = known.v.double()[:, target.clamp(min=0)][:, :, head].transpose(1, 2)
    wanted = wanted.gather(2, known.rows.index[..., None].expand_as(known.exact))
    tolerance = RETRIEVED * wanted.abs().amax(dim=-1, keepdim=True)
    retrieved = ((known.exact - wanted).abs() <= tolerance).all(dim=-1)
    retrieved &= visible_keys(case, known.rows.index) > 0
    # What other keys leave matters where v itself is 0.
    rounds = case.is_fp8 or known.single
    allowed = tolerance + 2 * known.u * wanted.abs() if rounds else tolerance
    wrong = ((known.out - wanted).abs() > allowed).any(dim=-1) & retrieved
    return [_counted("rows that did not retrieve their key's v", wrong, known.rows)]


def _ones(known: Known) -> list[Check]:
    """The output is sum(round(p)) / sum(p): 1 within P's rounding and the output's."""
    return [_elements("output with v = 1, off 1 by", known, known.exact, 2 * known.u)]


def _mean_of_v(known: Known) -> list[Check]:
    """All weights of a row are the same number, so that only that number's rounding, the sum and the output round.
    16-bit partial results are means of fewer values, which may be as large as the largest."""
    part = FP32_SUM / known.u if known.exact_partials else 1.0
    scale = known.exact.abs() + part * known.v.double().abs().amax()
    return [_elements("output off the mean of v", known, scale, 2 * known.u)]


def _elements(rule: str, known: Known, scale: Tensor, limit: float) -> Check:
    """max |out - exact| / scale over rows that see a key; in 8 bits P's rounding, which any mean of equal
    values keeps, and what the scheme itself loses count."""
    import torch

    seen = (visible_keys(known.case, known.rows.index) > 0)[..., None]
    error = ((known.out - known.exact).abs() / scale).masked_fill(~seen, 0.0).amax(dim=-1)
    if known.case.is_fp8:
        eager = ((known.eager - known.exact).abs() / scale).masked_fill(~seen, 0.0)
        limit = max(limit + FORMATS[known.case.dtype].rounding, 2 * float(torch.nan_to_num(eager).max()))
    place = int(error.argmax())
    value = float(error.flatten()[place])
    return Check(rule, value, limit, value <= limit, "" if value <= limit else row_place(known.rows, place))


def _bias(known: Known) -> list[Check]:
    """Rounding to nearest errs both ways, and the mean of many errors is near 0; truncation errs one way only.

    A row's elements share its weights, and so what rounding these does to it: of that, rows are the sample.
    """
    seen = visible_keys(known.case, known.rows.index) > 0
    if not known.exact_accumulator or not bool(seen.any()):
        return []
    bias = abs(float(((known.out - known.exact) / known.exact)[seen].mean()))
    row_bias = ((known.eager - known.exact) / known.exact)[seen].mean(dim=-1)
    eager = abs(float(row_bias.mean()))
    chance = known.u * float(known.exact[seen].numel()) ** -0.5
    by_row = known.u if known.single else float(row_bias.square().mean().sqrt())
    chance += by_row * float(row_bias.numel()) ** -0.5
    limit = BIAS_PART * known.u + CHANCE_SIGMAS * chance + 2 * eager
    return [Check("mean signed error with v of one sign", bias, limit, bias <= limit)]


def _signed(known: Known) -> list[Check]:
    """As `_bias`, of outputs of both signs: a conversion that never rounds up draws all of them towards 0.

    Of 16-bit outputs of ordinary inputs, whose rows have weights of their own, so that they are a sample. A scale that
    is held in the inputs' type, as operators of some libraries document, errs one way too, less than one rounding.
    """
    seen = visible_keys(known.case, known.rows.index) > 0
    if known.case.dtype not in ("fp16", "bf16") or not known.exact_accumulator or not bool(seen.any()):
        return []
    exact, sizes = known.exact[seen], known.exact[seen].abs().mean(dim=-1)
    sizes = sizes.masked_fill(sizes == 0, math.inf)

    def by_row(out: Tensor) -> Tensor:
        return ((out[seen] - exact) * exact.sign()).mean(dim=-1) / sizes

    eager, bias = by_row(known.eager), abs(float(by_row(known.out).mean()))
    chance = float(eager.square().mean().sqrt()) * float(eager.numel()) ** -0.5 + known.u * exact.numel() ** -0.5
    limit = BIAS_PART * known.u + CHANCE_SIGMAS * chance + 2 * abs(float(eager.mean()))
    if bias > limit and (rescaled := known.rescaled()) is not None:
        limit += SCALE_ALLOWANCE * abs(float(by_row(rescaled).mean()))
    return [Check("mean signed error, towards 0 or away from it", bias, limit, bias <= limit)]


def _counted(rule: str, wrong: Tensor, rows: Rows) -> Check:
    count = int(wrong.sum())
    return Check(rule, count, 0, count == 0, row_place(rows, int(wrong.flatten().int().argmax())) if count else "")


_RULES: dict[str, Callable[[Known], list[Check]]] = {
    "needle": _retrieval,
    "needle_hidden": _retrieval,
    "needle_edges": _retrieval,
    "v_ones": _ones,
    "equal_logits": _mean_of_v,
    "same_sign_v": _bias,
    "v_trend": _bias,
    "normal": _signed,
    "outliers": _signed,
}
