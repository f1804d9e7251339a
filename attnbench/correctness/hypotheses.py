"""What would give this wrong answer? The oracle is asked what known mistakes yield; the one that fits is named.

A mistake is another problem: another mask, another scale, other heads, fewer keys. If the kernel's output is right for
that problem, within a fraction of its error on the one it was given, that is most likely what it computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.reference.oracle import Rows, oracle, visible_keys
from attnbench.reference.quantize import plain_inputs

if TYPE_CHECKING:
    from torch import Tensor


# Rows a head on which hypotheses are tried: the wrongest ones.
ROWS_TRIED = 32
# A hypothesis is believed when it leaves no more than this part of the error, or no more than rounding explains.
BELIEVED = 0.2
# Key tile widths in use (FlashAttention-2 and -3, FlashInfer, cuDNN).
KEY_TILES = (16, 32, 64, 80, 96, 112, 128, 160, 176, 192, 224, 256)
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
    error = float((out - exact).square().mean())
    if not math.isfinite(error) or error == 0.0:
        return None
    noise = float((eager - exact).square().mean())
    believed = max(BELIEVED**2 * error, min(2.0 * noise, error / 4.0))
    best, words = believed, None
    for guess in _all(case, inputs, tried):
        left = float((out - oracle(guess.case, guess.inputs, guess.rows).out).square().mean())
        if left < best:
            best, words = left, guess.words
    return words or _scale_that_fits(case, inputs, tried, out, believed) or _factor_that_fits(out, exact, believed)


def _wrongest(rows: Rows, out: Tensor, exact: Tensor, eager: Tensor) -> tuple[Rows, Tensor, Tensor, Tensor]:
    count = min(ROWS_TRIED, rows.index.shape[-1])
    chosen = (out - exact).square().sum(dim=-1).topk(count, dim=-1).indices.sort(dim=-1).values
    wide = chosen[..., None].expand(*chosen.shape, out.shape[-1])
    out, exact, eager = (tensor.gather(2, wide) for tensor in (out, exact, eager))
    return Rows(rows.index.gather(2, chosen), "sampled"), out, exact, eager


def _all(case: Case, quantized: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    inputs = plain_inputs(case, quantized)
    yield from _masks(case, inputs, rows)
    yield from _keys(case, inputs, rows)
    yield from _heads(case, inputs, rows)
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

    bottom_right = (index + 1 + case.seqlen_k - case.seqlen_q).clamp(0, last)
    if not case.causal:
        yield seen("it is causal, and should not be", bottom_right)
        return
    yield seen("each query sees one key too many", bottom_right + 1)
    yield seen("each query sees one key too few", bottom_right - 1)
    yield seen("there is none, every query sees every key", index * 0 + last)
    if case.seqlen_q != case.seqlen_k:
        yield seen("causal is aligned top left, not bottom right", index + 1)
    turned = replace(inputs, k=inputs.k.flip(1), v=inputs.v.flip(1))
    visible = (case.seqlen_q - index).clamp(0, last)
    words = "mask: it is turned round, queries see the keys after the diagonal"
    yield Hypothesis(words, case, turned, replace(rows, visible=visible))


def _keys(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Hypothesis]:
    visible = visible_keys(case, rows.index)
    for tile in KEY_TILES:
        whole = (case.seqlen_k - 1) // tile * tile
        if whole:
            words = f"tail: the last tile of {tile} keys (from key {whole}) is left out"
            yield Hypothesis(words, case, inputs, replace(rows, visible=visible.clamp(max=whole)))
        missing = -case.seqlen_k % tile
        if missing and not case.causal:
            words = f"tail: the last tile of {tile} keys is not masked, {missing} keys past the end count as zeros"
            longer = replace(inputs, k=_padded(inputs.k, missing), v=_padded(inputs.v, missing))
            yield Hypothesis(words, replace(case, seqlen_k=case.seqlen_k + missing), longer, rows)


def _padded(tensor: Tensor, rows: int) -> Tensor:
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


def _descales(case: Case, inputs: Inputs, held: Quantized, rows: Rows) -> Iterator[Hypothesis]:
    if held.k_descale.shape == held.v_descale.shape:
        swapped = replace(held, k_descale=held.v_descale, v_descale=held.k_descale)
        yield Hypothesis("descales of k and v are swapped", case, replace(inputs, quantized=swapped), rows)
    for name in ("q_descale", "k_descale", "v_descale"):
        without = replace(held, **{name: getattr(held, name) * 0 + 1})
        yield Hypothesis(f"{name} is not applied", case, replace(inputs, quantized=without), rows)


def _scale_that_fits(case: Case, inputs: Inputs, rows: Rows, out: Tensor, believed: float) -> str | None:
    """A factor of the softmax scale between 1/2 and 2, looked for by its logarithm."""
    from scipy.optimize import minimize_scalar

    def left(exponent: float) -> float:
        scaled = replace(case, softmax_scale=case.scale * 2.0**exponent)
        return float((out - oracle(scaled, inputs, rows).out).square().mean())

    found = minimize_scalar(left, bounds=(-1.0, 1.0), method="bounded", options={"xatol": SCALE_TOLERANCE})
    return None if found.fun > believed else f"scale: the softmax scale is {2.0**found.x:.3g} times what it should be"


def _factor_that_fits(out: Tensor, exact: Tensor, believed: float) -> str | None:
    factor = float((out * exact).sum() / exact.square().sum())
    if float((out - factor * exact).square().mean()) > believed:
        return None
    if abs(factor) < 1e-6:
        return "the output is 0"
    return f"scale: the whole output is {factor:.3g} times what it should be"
