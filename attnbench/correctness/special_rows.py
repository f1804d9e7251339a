"""Rows that are not finite, or 0, or that see no key: what they have in common, and what that tells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnbench.case import Case
from attnbench.correctness.mistakes.guess import KEY_TILES, alternatives
from attnbench.correctness.nan_rules import nan_given
from attnbench.reference.oracle import Reference
from attnbench.reference.quantize import plain_inputs
from attnbench.reference.rows import Rows, parts, row_place, visible_keys

if TYPE_CHECKING:
    from torch import Tensor


FP16_LARGEST = 65504.0
# exp of more overflows fp32, and of less than minus that gives 0, but for subnormal numbers.
EXP_LARGEST = 88.0
# Scores that are looked through for a row's largest, in tiles.
SCORES_AT_MOST = 2**24
# A mean of values is told from other numbers within this part of it: far above any rounding.
NEAR = 0.02
HEADS_NAMED = 8


def special_rows(ref: Reference, rows: Rows, wrong: Tensor, out: Tensor) -> str | None:
    """wrong (batch, num_heads, rows); out (batch, num_heads, rows, head_dim_v), fp64."""
    import torch

    infinite = (~out.isfinite()).any(dim=-1)
    if nan_given(ref.inputs):
        name = next(n for n in ("q", "k", "v") if bool(getattr(ref.inputs, n).isnan().any()))
        return None if bool(infinite.any()) else f"NaN in {name} is hidden: the output has none"
    if bool(infinite.any()):
        return _poisoned(ref.case, rows, infinite) or _overflow(ref, rows, infinite) or _heads(infinite) or (
            f"rows that are not finite: {places(rows, infinite)}; never written, or overflow{_range(ref, infinite)}"
        )  # fmt: skip
    blank = (out == 0).all(dim=-1) & wrong
    if not torch.equal(blank, wrong) or not bool(wrong.any()):
        return None
    return f"rows that are 0: {places(rows, blank)}{low_scores(ref, rows, blank)}"


def rows_without_keys(ref: Reference, out: Tensor) -> str | None:
    """What stands in rows that see no key and should be 0; None where it is 0, or not finite."""
    blind = visible_keys(ref.case, ref.rows.index) == 0
    held = (out != 0).any(dim=-1) & blind
    if not bool(held.any()) or not bool(out[held].isfinite().all()):
        return None
    v = plain_inputs(ref.case, ref.inputs).v.double()
    group = ref.case.num_heads // ref.case.num_heads_kv
    mean = v.mean(dim=1).repeat_interleave(group, dim=1)[:, :, None].expand_as(out)
    words = "rows that see no key are not 0"
    off = (out - mean)[held].square().mean().sqrt()
    is_mean = float(off) <= NEAR * float(mean[held].square().mean().sqrt())
    return f"{words}: they hold the mean of v" if is_mean else words


def places(rows: Rows, wrong: Tensor) -> str:
    """`12 rows, the first at batch 0, head 1, row 85`"""
    count = int(wrong.sum())
    place = row_place(rows, int(wrong.flatten().int().argmax()))
    return f"{count} rows, the first at {place}" if count > 1 else place


def _heads(infinite: Tensor) -> str | None:
    """Whole heads, and no row of another."""
    whole = infinite.all(dim=-1)
    if bool(whole.all()) or not bool((infinite.any(dim=-1) == whole).all()):
        return None
    listed = [f"({int(b)}, {int(h)})" for b, h in whole.nonzero()]
    more = f" and {len(listed) - HEADS_NAMED} more" if len(listed) > HEADS_NAMED else ""
    return f"heads (batch, head) {', '.join(listed[:HEADS_NAMED])}{more} are never finite: never written, or overflow"


def _range(ref: Reference, infinite: Tensor) -> str:
    """What overflows most likely, where the output itself does not: sums that are not divided yet, or bf16 in fp16."""
    inputs, keys = plain_inputs(ref.case, ref.inputs), visible_keys(ref.case, ref.rows.index)[infinite]
    largest = float(inputs.v.abs().max())
    if ref.case.dtype == "bf16" and any(float(x.abs().max()) > FP16_LARGEST for x in (inputs.q, inputs.k, inputs.v)):
        return f": bf16 that goes through fp16 ends at {FP16_LARGEST:.0f}"
    if ref.case.dtype == "fp16" and largest * int(keys.min()) > FP16_LARGEST:
        return f": of sums over keys before they are divided, if kept in fp16, which ends at {FP16_LARGEST:.0f}"
    return ""


def _poisoned(case: Case, rows: Rows, infinite: Tensor) -> str | None:
    """Rows that see nothing, at all or in the tile of keys that is visited first: their maximum is -inf, and
    exp(-inf - -inf) is NaN, which no later tile takes away."""
    import torch

    visible = visible_keys(case, rows.index)
    blind = visible == 0
    if bool(blind.any()) and torch.equal(infinite, blind):
        return f"rows that see no key are not finite ({int(blind.sum())}): -inf minus -inf, 0 / 0, or never written"
    if not case.causal:
        return None
    fitting = [
        tile for tile in KEY_TILES if any(torch.equal(infinite, rows) for rows in _hidden_first(case, rows, tile))
    ]
    if not fitting:
        return None
    return (
        f"rows whose first tile of keys is hidden altogether are not finite ({int(infinite.sum())}): -inf minus -inf; "
        f"tiles of {alternatives(fitting)} keys, the last visited first"
    )


def _hidden_first(case: Case, rows: Rows, tile: int) -> Iterator[Tensor]:
    """(batch, num_heads, rows) True where a row sees nothing of the last tile that its tile of queries visits, for each
    height that such a tile may have."""
    visible = visible_keys(case, rows.index)
    for height in (*KEY_TILES, case.seqlen_q):
        last = (rows.index // height + 1) * height - 1
        reach = visible_keys(case, last.clamp(max=case.seqlen_q - 1)).clamp(min=1)
        yield visible <= (reach - 1) // tile * tile


def _overflow(ref: Reference, rows: Rows, infinite: Tensor) -> str | None:
    """Rows whose largest score is beyond exp, where no maximum is subtracted; or falls by as much from tile to tile."""
    import torch

    tiles = _largest_scores(ref, rows)
    if tiles is None:
        return None
    largest = tiles.amax(dim=-1)
    if not bool(infinite.all()):
        bad, good = float(largest[infinite].min()), float(largest[~infinite].max())
        if bad >= EXP_LARGEST and bad >= good:
            return f"exp overflows in rows whose largest score is {bad:.3g} or more: their maximum is not subtracted"
    for width in (16, 32, 64, 128, 256):
        of_tile = _wider(tiles, width // KEY_TILES[0])
        falls = of_tile[..., :-1] - of_tile[..., 1:]
        beyond = (falls.nan_to_num(nan=0.0, posinf=0.0) > EXP_LARGEST).any(dim=-1)
        if bool(beyond.any()) and torch.equal(infinite, beyond):
            return f"exp overflows in rows whose maximum falls from a tile of {width} keys to the next: it is not kept"
    return None


def _wider(tiles: Tensor, by: int) -> Tensor:
    import torch

    padded = torch.nn.functional.pad(tiles, (0, -tiles.shape[-1] % by), value=-math.inf)
    wide: Tensor = padded.unflatten(-1, (-1, by)).amax(dim=-1)
    return wide


def low_scores(ref: Reference, rows: Rows, blank: Tensor) -> str:
    """Rows of 0 all of whose scores lie where exp gives 0, unless their own maximum is subtracted."""
    tiles = _largest_scores(ref, rows)
    if tiles is None:
        return ""
    largest = float(tiles.amax(dim=-1)[blank].max())
    if not largest < -EXP_LARGEST:
        return ""
    return f"; all their scores are {largest:.4g} or less: the maximum starts at 0 or at another number above them"


def _largest_scores(ref: Reference, rows: Rows) -> Tensor | None:
    """(batch, num_heads, rows, tiles): the largest scaled score in each tile of the narrowest width."""
    import torch

    case, width = ref.case, KEY_TILES[0]
    count = -(-case.seqlen_k // width)
    if rows.index.numel() * case.seqlen_k > SCORES_AT_MOST:
        return None
    inputs = plain_inputs(case, ref.inputs)
    found: Tensor = torch.full((*rows.index.shape, count), -math.inf, dtype=torch.float64, device=rows.index.device)
    for part in parts(case, rows):
        scores = (part.queries(inputs.q).double() * case.scale) @ part.keys(inputs.k).double().mT
        scores = scores.masked_fill(part.hidden(0, part.limit), -math.inf)
        scores = torch.nn.functional.pad(scores, (0, count * width - part.limit), value=-math.inf)
        found[part.batch, part.heads, part.chunk] = scores.unflatten(-1, (count, width)).amax(dim=-1).reshape(
            *part.index.shape, count
        )  # fmt: skip
    return found
