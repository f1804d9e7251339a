"""Where a wrong output is wrong, as a map, and the likely cause in words.

The map has a line a head and a column a tile of query rows; the cause is a known mistake that yields the very same
numbers (`hypotheses`), or else what the places have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.correctness.hypotheses import NOTHING, likely_mistake
from attnbench.correctness.mistakes.lse import lse_cause
from attnbench.correctness.nan_rules import nan_given
from attnbench.correctness.narrowed import errors_of_a_size
from attnbench.correctness.noise import (
    EVERYWHERE,
    even_noise,
    growing_error,
    is_ordinary,
    row_rms,
    small_everywhere,
)
from attnbench.correctness.special_rows import low_scores, places, rows_without_keys, special_rows
from attnbench.reference.quantize import plain_inputs
from attnbench.reference.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference


# Query rows a column of the map; wider where that would be more than MAP_COLUMNS.
MAP_TILE = 64
MAP_COLUMNS = 64
MAP_LINES = 16
# No cause is named from places where the worst row is within this many times its limit.
GRAZED = 4.0
# Wrong columns of the output err by at least this times the others.
APART = 3.0
LEGEND = ". worst row of the tile within its limit; 1 to 9: over it by a factor of up to 2, 4, ... 512 or more"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """cause: likely cause in words, "" where nothing fits; error_map: lines of text, none where all rows are within.
    named: the cause is a mistake that explains the numbers, not what places have in common."""

    cause: str = ""
    error_map: tuple[str, ...] = ()
    named: bool = False


def diagnose(ref: Reference, out: Tensor, lse: Tensor | None, eager: Tensor, row_limit: float) -> Diagnosis:
    """out, eager (batch, num_heads, rows, head_dim_v), lse (batch, num_heads, rows) or None, fp64, at the rows of the
    reference; row_limit: the limit of a row's relative RMSE."""
    exact, rows = ref.oracle.out, ref.rows
    error = (out - exact).square().mean(dim=-1).sqrt() / row_rms(exact)
    error = error.nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = error > row_limit
    if not bool(wrong.any()):
        return _within(ref, out, lse, eager)
    given, finite = nan_given(ref.inputs), bool(out.isfinite().all())
    cause = None if given else _columns(ref, out, eager, wrong)
    if finite and not given and cause is None:
        cause = likely_mistake(ref.case, ref.inputs, rows, out, exact, eager)
    if cause == NOTHING:
        cause += low_scores(ref, rows, wrong)
    if cause is not None:
        return Diagnosis(cause, error_map(rows, error / row_limit), named=True)
    largest = float(error.max()) / row_limit
    special = special_rows(ref, rows, wrong, out)
    noise = None if special else _of_rounding(ref, out, lse, largest)
    words = special or noise or _shape(ref, out, wrong, row_limit, largest)
    return Diagnosis(words, error_map(rows, error / row_limit), named=noise is not None)


def _of_rounding(ref: Reference, out: Tensor, lse: Tensor | None, largest: float) -> str | None:
    return growing_error(ref, out, largest) or errors_of_a_size(ref, out) or even_noise(ref, out, lse)


def _within(ref: Reference, out: Tensor, lse: Tensor | None, eager: Tensor) -> Diagnosis:
    """No row is over its limit: the lse is wrong, or the output by a little, or where it should be 0."""
    if blind := rows_without_keys(ref, out):
        return Diagnosis(blind, named=True)
    if lse is not None and is_ordinary(ref, out, eager) and (cause := lse_cause(ref, lse)):
        return Diagnosis(cause, named=True)
    if not nan_given(ref.inputs) and not is_ordinary(ref, out, eager):
        cause = likely_mistake(ref.case, ref.inputs, ref.rows, out, ref.oracle.out, eager)
        if cause is not None:
            return Diagnosis(cause, named=True)
    words = small_everywhere(ref, out, lse, eager)
    return Diagnosis(words, named=words != EVERYWHERE)


def _columns(ref: Reference, out: Tensor, eager: Tensor, wrong: Tensor) -> str | None:
    """Columns of the output that are not finite, or 0, in every row, where others are neither; and what is wrong with
    the others."""
    exact, count = ref.oracle.out, out.shape[-1]
    if not bool(wrong.any()):
        return None
    for words, blank in (
        ("are not finite in any row: never written", ~out.isfinite()),
        ("are 0 in every row", out == 0),
    ):
        empty = (blank | (ref.oracle.lse == -math.inf)[..., None]).flatten(0, -2).all(dim=0)
        kept = (~empty).nonzero().flatten()
        if not 0 < len(kept) < count or not bool((exact[..., empty] != 0).any()):
            continue
        cause = f"columns {_ranges(empty.nonzero().flatten().tolist())} of the output's {count} {words}"
        others = out[..., kept]
        if not bool(others.isfinite().all()):
            return cause
        inputs = plain_inputs(ref.case, ref.inputs)
        case = replace(ref.case, head_dim_v=len(kept))
        also = likely_mistake(
            case, replace(inputs, v=inputs.v[..., kept]), ref.rows, others, exact[..., kept], eager[..., kept]
        )
        return f"{cause}; {also}" if also else cause
    return None


def _ranges(numbers: list[int]) -> str:
    """`0 to 3, 7`, ascending."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join(" to ".join(map(str, ends)) for ends in ranges)


def error_map(rows: Rows, ratio: Tensor) -> tuple[str, ...]:
    """ratio: each row's error over its limit, (batch, num_heads, rows)."""
    batch, heads, _ = ratio.shape
    last = int(rows.index.max())
    tile = MAP_TILE * max(1, math.ceil((last + 1) / (MAP_TILE * MAP_COLUMNS)))
    columns = last // tile + 1
    worst = ratio.new_full((batch, heads, columns), -1.0)
    worst.scatter_reduce_(2, rows.index // tile, ratio, "amax")
    lines = []
    order = [(b, h) for b in range(batch) for h in range(heads)]
    by_error = sorted(order, key=lambda place: -float(worst[place].max()))
    shown = order if len(order) <= MAP_LINES else by_error[:MAP_LINES]
    for place in shown:
        lines.append(f"batch {place[0]:<3} head {place[1]:<3} " + "".join(map(_mark, worst[place].tolist())))
    left = f", the worst {MAP_LINES} of {len(order)} heads" if len(order) > MAP_LINES else ""
    head = f"error by head and tile of {tile} query rows{left} ({LEGEND})"
    return (head, *lines)


def _mark(ratio: float) -> str:
    if ratio < 0:
        return " "
    if ratio <= 1:
        return "."
    return str(min(9, math.ceil(math.log2(ratio)))) if math.isfinite(ratio) else "9"


def _shape(ref: Reference, out: Tensor, wrong: Tensor, row_limit: float, largest: float) -> str:
    """What the wrong rows have in common; where a limit is merely grazed, that is chance.

    largest: of a row's error over its limit.
    """
    if largest <= GRAZED:
        return f"none is named from places: the worst row is at {largest:.2g} times its limit"
    case, rows, exact = ref.case, ref.rows, ref.oracle.out
    heads = wrong.any(dim=2)
    wrong_rows = wrong.any(dim=1).any(dim=0).nonzero().flatten()
    first = int(rows.index[0, 0, int(wrong_rows[0])]) if rows.coverage == "full" else int(rows.index[wrong].min())
    words = []
    by_column = (out - exact)[wrong].square().mean(dim=0).sqrt()
    far = by_column > row_limit * exact[wrong].square().mean().sqrt()
    if 0 < int(far.sum()) <= len(far) // 2 and bool(by_column[far].min() > APART * by_column[~far].max()):
        words.append(f"only columns {_ranges(far.nonzero().flatten().tolist())} are wrong")
    if int(heads.sum()) < heads.numel():
        at = ", ".join(f"({int(b)}, {int(h)})" for b, h in heads.nonzero()[:8])
        words.append(f"only some heads are wrong (batch, head): {at}; head mapping, or one head's data")
    if first >= (case.seqlen_q - 1) // MAP_TILE * MAP_TILE and case.seqlen_q > MAP_TILE:
        words.append(f"only the last rows are wrong, from row {first}; the tail of the queries")
    elif float(wrong.float().mean()) > 0.9:
        words.append("all rows are wrong; scale, or what every tile shares")
    return "; ".join(words) or f"wrong at {places(rows, wrong)}"
