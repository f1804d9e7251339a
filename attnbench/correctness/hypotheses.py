"""What would give this wrong answer? The oracle is asked what known mistakes yield; the one that fits is named.

A mistake is another problem: another mask, another scale, other heads, fewer keys. If the kernel's output is right for
that problem, within a fraction of its error on the one it was given, that is most likely what it computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.correctness.narrowed import narrowed
from attnbench.reference.int8 import int8_scores
from attnbench.reference.narrow import narrow_sums
from attnbench.reference.oracle import Rows, oracle, visible_keys
from attnbench.reference.quantize import plain_inputs

if TYPE_CHECKING:
    from torch import Tensor


# Rows a head on which hypotheses are tried: the wrongest ones, and some of all, which a right hypothesis explains too.
WRONGEST_TRIED = 24
SPREAD_TRIED = 8
# A hypothesis is believed when it leaves no more than this part of the error, or no more than rounding explains.
BELIEVED = 0.2
# Hypotheses that leave the same error, but for rounding, are all named.
SAME_LEFT = 1e-6
# Key tile widths in use (FlashAttention-2 and -3, FlashInfer, cuDNN).
KEY_TILES = (16, 32, 64, 80, 96, 112, 128, 160, 176, 192, 224, 256)
# Sums in 16 bits err by up to this times the eager reference's error; mistakes by far more.
SUMS_ERROR = 30.0
# Key tiles after which such sums may be rounded.
SUMMED_TILES = (16, 32, 64, 128)
# Elements of q and k that are rounded again to try what that does: 1 GiB of fp32, of which a few are held at once.
ROUNDED_AT_MOST = 2**28
# Head dimensions that kernels are written for.
HEAD_DIM_TILES = (16, 32, 64, 96, 128, 192, 256)
# Of the logarithm to base 2: the factor comes out within 0.1 %.
SCALE_TOLERANCE = 1e-3


class Hypothesis(NamedTuple):
    """A mistake in words, and the problem that a kernel with it would solve."""

    words: str
    case: Case
    inputs: Inputs
    rows: Rows


def likely_mistake(case: Case, inputs: Inputs, rows: Rows, out: Tensor, exact: Tensor, eager: Tensor) -> str | None:
    """The mistake that fits best, in words; None where none leaves little of the error.

    out, exact, eager: fp64 (batch, num_heads, rows, head_dim_v) at `rows`. What the eager reference errs, no hypothesis
    can explain away.
    """
    tried, out, exact, eager = _wrongest(rows, out, exact, eager)
    scale = exact.square().mean(dim=(2, 3), keepdim=True).sqrt()
    scale = scale.masked_fill(scale == 0, 1.0)  # heads count alike, though one be a millionth of another

    def left(answer: Tensor) -> float:
        return float(((out - answer) / scale).square().mean())

    error, noise = left(exact), float(((eager - exact) / scale).square().mean())
    if not math.isfinite(error) or error == 0.0:
        return None
    believed = max(BELIEVED**2 * error, min(2.0 * noise, error / 4.0))
    found = [(left(oracle(*guess[1:]).out), guess.words) for guess in _all(case, inputs, tried)]
    if case.dtype in ("fp16", "bf16") and 2.0 * noise < error < SUMS_ERROR**2 * noise:
        # Any kernel's rounding looks like few sums.
        found += [(left(answer), words) for words, answer in _sums(case, inputs, tried)]
    best = min(found)[0]
    if best < believed:
        return ", or ".join(words for error_left, words in found if error_left <= best + SAME_LEFT * error)
    return _scale_that_fits(case, inputs, tried, left, believed) or _factor_that_fits(out, exact, left, believed)


def _sums(case: Case, inputs: Inputs, rows: Rows) -> Iterator[tuple[str, Tensor]]:
    """Answers of kernels that keep sums in the inputs' type from tile to tile."""
    for normalized, kept in ((False, "the sum"), (True, "the mean of v so far")):
        for tile in SUMMED_TILES:
            words = f"accumulation: {kept} is kept in {case.dtype} from tile to tile of {tile} keys"
            yield words, narrow_sums(case, inputs, rows, tile, normalized).out


def _wrongest(rows: Rows, out: Tensor, exact: Tensor, eager: Tensor) -> tuple[Rows, Tensor, Tensor, Tensor]:
    import torch

    count = rows.index.shape[-1]
    rank = (out - exact).square().sum(dim=-1)
    rank[..., torch.linspace(0, count - 1, min(SPREAD_TRIED, count)).long()] = math.inf
    chosen = rank.topk(min(WRONGEST_TRIED + SPREAD_TRIED, count), dim=-1).indices.sort(dim=-1).values
    wide = chosen[..., None].expand(*chosen.shape, out.shape[-1])
    out, exact, eager = (tensor.gather(2, wide) for tensor in (out, exact, eager))
    return Rows(rows.index.gather(2, chosen), "sampled"), out, exact, eager


def _all(case: Case, quantized: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    inputs = plain_inputs(case, quantized)
    yield from _masks(case, inputs, rows)
    yield from _keys(case, inputs, rows)
    yield from _heads(case, inputs, rows)
    for width in (width for width in HEAD_DIM_TILES if width < case.head_dim):
        words = f"scores: only the first {width} of {case.head_dim} dimensions of q and k count"
        narrow = replace(case, head_dim=width, softmax_scale=case.scale)
        yield Hypothesis(words, narrow, replace(inputs, q=inputs.q[..., :width], k=inputs.k[..., :width]), rows)
    if case.dtype == case.key_dtype == "fp32":
        yield from (Hypothesis(words, case, given, rows) for words, given in narrowed(inputs))
    elif not case.is_fp8 and inputs.q.numel() + inputs.k.numel() <= ROUNDED_AT_MOST:
        yield from _rounded(case, inputs, rows)
    for words, scale in (
        ("the softmax scale is missing", 1.0),
        ("the softmax scale is applied twice", case.scale**2),
        ("exp2 is taken without log2(e) in the scale", case.scale * math.log(2.0)),
        ("log2(e) is in the scale, but exp is taken", case.scale / math.log(2.0)),
    ):
        yield Hypothesis(f"scale: {words}", replace(case, softmax_scale=scale), inputs, rows)
    if quantized.quantized is not None:
        yield from _descales(case, quantized, quantized.quantized, rows)


def _masks(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    index, last = rows.index, case.seqlen_k

    def seen(words: str, visible: Tensor) -> Hypothesis:
        return Hypothesis(f"mask: {words}", case, inputs, replace(rows, visible=visible.clamp(0, last)))

    own, corners = index + 1 + case.diagonal, {"bottom right": case.seqlen_k - case.seqlen_q, "top left": 0}
    its = case.mask_alignment.replace("_", " ")
    ((other, diagonal),) = ((corner, found) for corner, found in corners.items() if corner != its)
    if not case.causal:
        yield seen("it is causal, and should not be", own)
        if case.seqlen_q != case.seqlen_k:
            yield seen(f"it is causal, aligned {other}, and should not be", index + 1 + diagonal)
        return
    yield seen("each query sees one key too many", own + 1)
    yield seen("each query sees one key too few", own - 1)
    yield seen("there is none, every query sees every key", index * 0 + last)
    if case.seqlen_q != case.seqlen_k:
        yield seen(f"causal is aligned {other}, not {its}", index + 1 + diagonal)
    turned = replace(inputs, k=inputs.k.flip(1), v=inputs.v.flip(1))
    visible = (case.seqlen_k - case.diagonal - index).clamp(0, last)
    words = "mask: it is turned round, queries see the keys after the diagonal"
    yield Hypothesis(words, case, turned, replace(rows, visible=visible))


def _keys(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    visible = visible_keys(case, rows.index)
    for whole, tiles in _tiles_by(lambda tile: (case.seqlen_k - 1) // tile * tile):
        words = f"tail: the last tile of {tiles} keys (from key {whole}) is left out"
        yield Hypothesis(words, case, inputs, replace(rows, visible=visible.clamp(max=whole)))
    if not case.causal:
        smooth = replace(inputs, k=inputs.k.float() - inputs.k.float().mean(dim=1, keepdim=True))
        for missing, tiles in _tiles_by(lambda tile: -case.seqlen_k % tile):
            words = f"tail: the last tile of {tiles} keys is not masked, {missing} keys past the end count as zeros"
            yield _with_keys(words, case, inputs, rows, case.seqlen_k + missing)
            words += ", the mean of all keys subtracted before"
            yield _with_keys(words, case, smooth, rows, case.seqlen_k + missing)
    if case.seqlen_q != case.seqlen_k:
        yield from _keys_of_queries(case, inputs, rows)


def _tiles_by(count: Callable[[int], int]) -> Iterator[tuple[int, str]]:
    """Every count but 0 that key tiles come to, and the widths that come to it, in words: they explain as much."""
    widths: dict[int, list[int]] = {}
    for tile in KEY_TILES:
        widths.setdefault(count(tile), []).append(tile)
    for number, tiles in widths.items():
        if number:
            yield number, alternatives(tiles)


def alternatives(numbers: Sequence[int]) -> str:
    """`32, 64 or 96`"""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last


def _keys_of_queries(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    """seqlen_k is taken to be seqlen_q."""
    words, count = "keys: their number is taken from q", case.seqlen_q
    if count > case.seqlen_k:
        past = f"{words}, {count - case.seqlen_k} keys past the end count as zeros"
        yield _with_keys(past, case, inputs, rows, count)
        return
    words += f", only the first {count} are read"
    first = visible_keys(case, rows.index).clamp(max=count)
    yield Hypothesis(words, case, inputs, replace(rows, visible=first))
    if case.causal:  # with the mask of so many keys, beyond which nothing counts
        yield _with_keys(words, case, inputs, rows, count)
        return
    read = _with_keys(words, case, inputs, rows, count)
    for missing, tiles in _tiles_by(lambda tile: -count % tile):
        padded = f"{words}, in tiles of {tiles}, and {missing} past them count as zeros"
        yield _with_keys(padded, read.case, read.inputs, rows, count + missing)


def _with_keys(words: str, case: Case, inputs: Inputs, rows: Rows, count: int) -> Hypothesis:
    """Another number of keys: fewer, or zeros past the end."""
    k, v = (_padded(tensor, count - case.seqlen_k) for tensor in (inputs.k, inputs.v))
    return Hypothesis(words, replace(case, seqlen_k=count), replace(inputs, k=k, v=v), rows)


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """With so many rows of zeros after each sequence; fewer rows where that is negative."""
    import torch

    return torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, rows))


def _heads(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    import torch

    if 1 < case.num_heads_kv < case.num_heads:
        turn = torch.arange(case.num_heads, device=inputs.k.device) % case.num_heads_kv
        taken = replace(inputs, k=inputs.k[:, :, turn], v=inputs.v[:, :, turn])
        words = "head mapping: query heads take key/value heads in turn, not in groups"
        yield Hypothesis(words, replace(case, num_heads_kv=case.num_heads), taken, rows)
    if case.num_heads_kv > 1:
        first = replace(inputs, k=inputs.k[:, :, :1].expand_as(inputs.k), v=inputs.v[:, :, :1].expand_as(inputs.v))
        yield Hypothesis("head mapping: every head takes key/value head 0", case, first, rows)
    if case.batch > 1:
        first = replace(inputs, k=inputs.k[:1].expand_as(inputs.k), v=inputs.v[:1].expand_as(inputs.v))
        yield Hypothesis("batch: every batch element takes the keys and values of element 0", case, first, rows)


def _rounded(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    """q, k or v with fewer digits than they have."""
    import torch

    whole = max(case.seqlen_q, case.seqlen_k)
    for by, q_rows, k_rows in (
        ("in blocks of 128 and 64 rows", 128, 64), ("in blocks of 64 rows", 64, 64), ("by row", 1, 1),
        ("by head", whole, whole),
    ):  # fmt: skip
        for smooth, before in ((True, ", the mean of all keys subtracted before"), (False, "")):
            words = f"precision of the scores: q and k are rounded to 8-bit integers, scaled {by}{before}"
            yield Hypothesis(words, case, int8_scores(inputs, q_rows, k_rows, smooth)[0], rows)
    for factors, factor in (("the scale is", 1.0), ("the scale and log2(e) are", 1.0 / math.log(2.0))):
        q = (inputs.q.float() * (case.scale * factor)).to(inputs.q.dtype).float()
        words = f"precision of the scores: q is rounded again once {factors} multiplied into it"
        yield Hypothesis(words, replace(case, softmax_scale=1.0 / factor), replace(inputs, q=q), rows)
    narrow = Inputs(inputs.q.to(torch.float16), inputs.k.to(torch.float16), inputs.v.to(torch.float16))
    if case.dtype == "bf16" and all(bool(x.isfinite().all()) for x in (narrow.q, narrow.k, narrow.v)):
        yield Hypothesis("range: bf16 goes through fp16, which has no digits left below 6e-5", case, narrow, rows)


def _descales(case: Case, inputs: Inputs, held: Quantized, rows: Rows) -> Iterator[Hypothesis]:
    if held.k_descale.shape == held.v_descale.shape:
        swapped = replace(held, k_descale=held.v_descale, v_descale=held.k_descale)
        yield Hypothesis("descales of k and v are swapped", case, replace(inputs, quantized=swapped), rows)
    for name in ("q_descale", "k_descale", "v_descale"):
        without = replace(held, **{name: getattr(held, name) * 0 + 1})
        yield Hypothesis(f"{name} is not applied", case, replace(inputs, quantized=without), rows)


def _scale_that_fits(
    case: Case, inputs: Inputs, rows: Rows, left: Callable[[Tensor], float], believed: float
) -> str | None:
    """A factor of the softmax scale between 1/2 and 2, looked for by its logarithm."""
    from scipy.optimize import minimize_scalar

    def left_with(exponent: float) -> float:
        return left(oracle(replace(case, softmax_scale=case.scale * 2.0**exponent), inputs, rows).out)

    found = minimize_scalar(left_with, bounds=(-1.0, 1.0), method="bounded", options={"xatol": SCALE_TOLERANCE})
    return None if found.fun > believed else f"scale: the softmax scale is {2.0**found.x:.3g} times what it should be"


def _factor_that_fits(out: Tensor, exact: Tensor, left: Callable[[Tensor], float], believed: float) -> str | None:
    factor = float((out * exact).sum() / exact.square().sum())
    if left(factor * exact) > believed:
        return None
    if abs(factor) < 1e-6:
        return "the output is 0"
    return f"scale: the whole output is {factor:.3g} times what it should be"
