"""What small mistakes of precision do to each element of an output, predicted from the inputs.

Each is computed in fp32 at a few rows, as the difference between an answer with the mistake and the same without.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.correctness.mistakes.guess import KEY_TILES
from attnbench.reference.rows import Part, Rows, parts

if TYPE_CHECKING:
    from torch import Tensor


SCORES, SUMS, WEIGHTS = "scores", "sums", "weights"
# Weights below these parts of a row's largest, or of its largest so far in tiles of so many keys, are left out.
LEFT_OUT = (1e-2, 1e-3)
LEFT_OUT_TILE = 64
# A sum that is kept in 16 bits over more tiles errs so much that its size shows it.
KEPT_TILES = 32
# In which the running maximum, and with it the unit of what is rounded, comes about.
FORWARDS, BACKWARDS, KNOWN = "the first visited first", "the last visited first", "the row's maximum known beforehand"
DIVIDED, IN_FP32 = "the weights divided by their sum beforehand", "the weights divided by their sum, in fp32"
ORDERS = (FORWARDS, BACKWARDS, DIVIDED, KNOWN, IN_FP32)


class Prediction(NamedTuple):
    """kind: SCORES, SUMS or WEIGHTS; error: (batch, num_heads, rows, head_dim_v) fp32, what it adds to an output."""

    kind: str
    words: str
    error: Tensor


def predicted(case: Case, inputs: Inputs, rows: Rows, kinds: Collection[str]) -> list[Prediction]:
    """Of some kinds, at few rows; inputs in 16 bits."""
    import torch

    found: dict[tuple[str, str], Tensor] = {}
    for part in parts(case, rows):
        for kind, words, error in _of_part(case, part, inputs, kinds):
            if (kind, words) not in found:
                shape = (*rows.index.shape, case.head_dim_v)
                found[kind, words] = torch.zeros(shape, device=rows.index.device)
            found[kind, words][part.batch, part.heads, part.chunk] = error.reshape(*part.index.shape, -1)
    return [Prediction(kind, words, error) for (kind, words), error in found.items()]


def _of_part(case: Case, part: Part, inputs: Inputs, kinds: Collection[str]) -> Iterator[tuple[str, str, Tensor]]:
    products = part.queries(inputs.q).float() @ part.keys(inputs.k).float().mT
    hidden, v = part.hidden(0, part.limit), part.keys(inputs.v).float()
    if SCORES in kinds:
        for words, error in _scores(case, products, hidden, v):
            yield SCORES, words, error
        yield from ((SCORES, *found) for found in _scores_of_scaled(case, part, inputs, hidden, v))
    scores = products.mul_(case.scale).masked_fill_(hidden, -math.inf)
    if SUMS in kinds:
        for words, error in _sums(scores, v):
            yield SUMS, words, error
    if WEIGHTS in kinds:
        for words, error in _weights(scores, v):
            yield WEIGHTS, words, error


def _scores(case: Case, products: Tensor, hidden: Tensor, v: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Rounded to bf16 before the scale is applied, after it, with log2(e) in it, as exp2 takes them, or less the row's
    maximum, as exp takes them."""
    scores = (products * case.scale).masked_fill_(hidden, -math.inf)
    p, log2e = scores.softmax(dim=-1), 1.0 / math.log(2.0)
    forms = {"before the softmax scale is applied": 1.0, "after the softmax scale is applied": case.scale}
    if math.frexp(case.scale)[0] == 0.5:  # a power of two rounds nothing
        forms = {"": 1.0}
    forms["after the softmax scale and log2(e) are applied"] = case.scale * log2e
    for when, factor in forms.items():
        rounded = _rounded(products * factor).mul_(case.scale / factor).masked_fill_(hidden, -math.inf)
        words = f"precision: scores rounded to 16 bits (bf16{', ' if when else ''}{when})"
        yield words, (rounded.softmax(dim=-1) - p) @ v
    less = _rounded(scores - scores.amax(dim=-1, keepdim=True))
    yield "precision: scores less their row's maximum are rounded to 16 bits (bf16)", (less.softmax(dim=-1) - p) @ v


def _scores_of_scaled(
    case: Case, part: Part, inputs: Inputs, hidden: Tensor, v: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Where q is rounded again once the scale is in it: what rounding the scores does beside that."""
    q, k = part.queries(inputs.q).float(), part.keys(inputs.k).float()
    for within, factor in (("the scale is", case.scale), ("the scale and log2(e) are", case.scale / math.log(2.0))):
        if math.frexp(factor)[0] == 0.5:
            continue
        given = _rounded(q * factor) @ k.mT
        both = ((x * (case.scale / factor)).masked_fill_(hidden, -math.inf) for x in (_rounded(given), given))
        rounded, right = (scores.softmax(dim=-1) for scores in both)
        words = f"precision: scores rounded to 16 bits (bf16, {within} multiplied into q beforehand)"
        yield words, (rounded - right) @ v


def _weights(scores: Tensor, v: Tensor) -> Iterator[tuple[str, Tensor]]:
    """scores (pairs, rows, keys), hidden ones -inf; v (pairs, keys, head_dim_v)."""
    import torch

    lse = scores.logsumexp(dim=-1)
    missing = -scores.shape[-1] % LEFT_OUT_TILE
    tiles = torch.nn.functional.pad(scores, (0, missing), value=-math.inf).unflatten(-1, (-1, LEFT_OUT_TILE))
    for order in (KNOWN, FORWARDS, BACKWARDS):
        maximum = _maxima(tiles.amax(dim=-1), order)
        for part in LEFT_OUT if order == KNOWN else LEFT_OUT[-1:]:
            below = tiles < (maximum + math.log(part))[..., None]
            words = f"weights: those below about {part:g} of a row's largest are left out ({order})"
            yield words, -_values(below.flatten(-2)[..., : scores.shape[-1]], scores, lse, v)


def _values(some: Tensor, scores: Tensor, lse: Tensor, v: Tensor) -> Tensor:
    """What the weights of some keys, usually few, bring to the output."""
    import torch

    pair, row, key = (some & (scores > -math.inf)).nonzero(as_tuple=True)
    weights = (scores[pair, row, key] - lse[pair, row]).exp()
    kept = torch.zeros_like(scores).index_put_((pair, row, key), weights)
    return kept @ v


def _sums(scores: Tensor, v: Tensor) -> Iterator[tuple[str, Tensor]]:
    """scores (pairs, rows, keys), hidden ones -inf; v (pairs, keys, head_dim_v)."""
    import torch

    largest = scores.amax(dim=-1)
    weights = (scores - largest[..., None]).exp_()
    total = weights.sum(dim=-1)
    for width in KEY_TILES:  # whose products are summed before the sum is rounded
        if 2 * width > scores.shape[-1]:
            return
        missing = -scores.shape[-1] % width
        tiles = torch.nn.functional.pad(weights, (0, missing)).unflatten(-1, (-1, width))
        values = torch.nn.functional.pad(v, (0, 0, 0, missing)).unflatten(1, (-1, width))
        of_tiles = tiles.amax(dim=-1)
        # (pairs, tiles, orders, rows): of a tile's weights, in that of the row's last; 0 ahead of what a row sees
        unit = torch.stack([_units(of_tiles, total, order) for order in ORDERS], dim=1).permute(0, 3, 1, 2)
        p = tiles.transpose(1, 2)[:, :, None] / unit.masked_fill(unit == 0, 1.0)[..., None]
        p[:, :, :-1] = _rounded(p[:, :, :-1])  # all but IN_FP32's
        sums = (p.flatten(2, 3) @ values).unflatten(2, (len(ORDERS), -1))  # (pairs, tiles, orders, rows, head_dim_v)
        part = (unit / total[:, None, None])[..., None]
        rounded = ((_rounded(sums) - sums) * part).sum(dim=1)
        kept = [_kept(sums, part, order) for order in ORDERS[:3]] if tiles.shape[2] <= KEPT_TILES else []
        for place, order in enumerate(ORDERS):
            at = f"{width} keys ({order})"
            yield f"accumulation: P V is summed in bf16 over tiles of {at}", rounded[:, place]
            if place < len(kept):
                yield f"accumulation: the sum is kept in bf16 from tile to tile of {at}", kept[place]


def _units(of_tiles: Tensor, total: Tensor, order: str) -> Tensor:
    """What weights are relative to in each of (pairs, rows, tiles). of_tiles: their largest ones; total: of all."""
    if order in (DIVIDED, IN_FP32):
        return total[..., None].expand_as(of_tiles)
    return _maxima(of_tiles, order)


def _maxima(of_tiles: Tensor, order: str) -> Tensor:
    """The running maximum after each of (pairs, rows, tiles)."""
    if order == KNOWN:
        return of_tiles.amax(dim=-1, keepdim=True).expand_as(of_tiles)
    if order == FORWARDS:
        return of_tiles.cummax(dim=-1).values
    return of_tiles.flip(-1).cummax(dim=-1).values.flip(-1)


def _kept(sums: Tensor, part: Tensor, order: str) -> Tensor:
    """What rounding the sum so far after each tile does to the output. sums (pairs, tiles, orders, rows, head_dim_v);
    part (pairs, tiles, orders, rows, 1): of a tile's unit in that of the output."""
    import torch

    sums, part = sums[:, :, ORDERS.index(order)], part[:, :, ORDERS.index(order)]
    if order == BACKWARDS:
        sums, part = sums.flip(1), part.flip(1)
    before = torch.cat((part[:, :1], part[:, :-1]), dim=1)
    rescale = torch.where(part > 0, before / part, 0.0)
    kept = torch.zeros_like(sums[:, 0])
    for of_tile, factor in zip(sums[:, :-1].unbind(1), rescale[:, :-1].unbind(1)):
        kept = _rounded(kept * factor + of_tile)
    kept = kept * rescale[:, -1] + sums[:, -1]
    if order != DIVIDED:  # whose last rounding is the output's own, which is no mistake
        kept = _rounded(kept)
    return kept * part[:, -1] - (sums * part).sum(dim=1)


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()
