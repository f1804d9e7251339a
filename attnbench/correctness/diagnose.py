"""Where a wrong output is wrong, as a map, and the likely cause in words.

The map has a line a head and a column a tile of query rows; the cause is a known mistake that yields the very same
numbers (`hypotheses`), or else what the places have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.correctness.hypotheses import likely_mistake
from attnbench.reference.oracle import Rows, visible_keys

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference


# Query rows a column of the map; wider where that would be more than MAP_COLUMNS.
MAP_TILE = 64
MAP_COLUMNS = 64
MAP_LINES = 16
LEGEND = ". worst row of the tile within its limit; 1 to 9: over it by a factor of up to 2, 4, ... 512 or more"
# An error that grows with the number of keys as a power of at least this is an accumulator's.
GROWTH = 0.3


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """cause: likely cause in words, "" where nothing fits; error_map: lines of text, none where all rows are within."""

    cause: str = ""
    error_map: tuple[str, ...] = ()


def diagnose(ref: Reference, out: Tensor, lse: Tensor | None, eager: Tensor, row_limit: float) -> Diagnosis:
    """out, eager (batch, num_heads, rows, head_dim_v), lse (batch, num_heads, rows) or None, fp64, at the rows of the
    reference; row_limit: the limit of a row's relative RMSE."""
    exact, rows = ref.oracle.out, ref.rows
    finite = bool(out.isfinite().all())
    error = (out - exact).square().mean(dim=-1).sqrt() / _row_rms(exact)
    error = error.nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = error > row_limit
    usable = finite and not bool(ref.inputs.v.isnan().any())
    cause = likely_mistake(ref.case, ref.inputs, rows, out, exact, eager) if usable else None
    if not bool(wrong.any()):
        return Diagnosis(_lse_cause(lse, ref.oracle.lse) or cause or _small_everywhere(out, exact, rows, ref))
    cause = cause or _special(ref, rows, wrong, out) or _shape(ref, rows, wrong)
    return Diagnosis(cause, error_map(rows, error / row_limit))


def _special(ref: Reference, rows: Rows, wrong: Tensor, out: Tensor) -> str | None:
    """NaN hidden, rows that are not finite, rows of zeros."""
    import torch

    infinite = (~out.isfinite()).any(dim=-1)
    if bool(ref.inputs.v.isnan().any()):
        return None if bool(infinite.any()) else "NaN in v is hidden: the output has none"
    if bool(infinite.any()):
        return f"rows that are not finite: {_places(rows, infinite)}; never written, or overflow"
    blank = (out == 0).all(dim=-1) & wrong
    return f"rows that are 0: {_places(rows, blank)}" if torch.equal(blank, wrong) else None


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


def _row_rms(exact: Tensor) -> Tensor:
    rms = exact.square().mean(dim=-1).sqrt()
    return rms.masked_fill(rms == 0, math.inf)


def _lse_cause(lse: Tensor | None, exact: Tensor) -> str | None:
    """What a wrong lse beside a right output is, if it is one of the usual mistakes."""
    if lse is None:
        return None
    seen = exact.isfinite() & lse.isfinite()
    if not bool(seen.any()):
        return None
    a, b = lse[seen].double(), exact[seen]
    allowed = 1e-3 + 1e-5 * b.abs().max()
    for words, guess in (("in log2", b / math.log(2.0)), ("negative", -b)):
        if float((a - guess).abs().max()) <= allowed < float((a - b).abs().max()):
            return f"the lse is {words}"
    offset = float((a - b).mean())
    if abs(offset) > allowed and float((a - b - offset).abs().max()) <= allowed:
        return f"the lse is off by {offset:+.4g} everywhere"
    return None


def _small_everywhere(out: Tensor, exact: Tensor, rows: Rows, ref: Reference) -> str:
    """No row is far off, all are a little: growing with the number of keys, it is how sums are accumulated."""
    growth = _growth(out, exact, visible_keys(ref.case, rows.index))
    if growth is not None and growth > GROWTH:
        return f"accumulation: the error grows with the number of keys (to the power {growth:.2f})"
    return "no row stands out: precision everywhere"


def _growth(out: Tensor, exact: Tensor, visible: Tensor) -> float | None:
    """Slope of log(relative row error) over log(keys seen); None where all rows see about as many."""
    error = ((out - exact).square().mean(dim=-1).sqrt() / _row_rms(exact)).flatten()
    keys = visible.flatten().double()
    use = (error > 0) & (keys > 0)
    if int(use.sum()) < 8:
        return None
    x, y = keys[use].log(), error[use].log()
    spread = float(x.var())
    return None if spread < 0.1 else float(((x - x.mean()) * (y - y.mean())).mean()) / spread


def _shape(ref: Reference, rows: Rows, wrong: Tensor) -> str:
    """What the wrong rows have in common."""
    case = ref.case
    heads = wrong.any(dim=2)
    wrong_rows = wrong.any(dim=1).any(dim=0).nonzero().flatten()
    first = int(rows.index[0, 0, int(wrong_rows[0])]) if rows.coverage == "full" else int(rows.index[wrong].min())
    words = []
    if int(heads.sum()) < heads.numel():
        at = ", ".join(f"({int(b)}, {int(h)})" for b, h in heads.nonzero()[:8])
        words.append(f"only some heads are wrong (batch, head): {at}; head mapping, or one head's data")
    if first >= (case.seqlen_q - 1) // MAP_TILE * MAP_TILE and case.seqlen_q > MAP_TILE:
        words.append(f"only the last rows are wrong, from row {first}; the tail of the queries")
    elif float(wrong.float().mean()) > 0.9:
        words.append("all rows are wrong; scale, or what every tile shares")
    return "; ".join(words) or f"wrong at {_places(rows, wrong)}"


def _places(rows: Rows, wrong: Tensor) -> str:
    """`12 rows, the first at batch 0, head 1, row 85`"""
    from attnbench.reference.oracle import row_place

    count = int(wrong.sum())
    place = row_place(rows, int(wrong.flatten().int().argmax()))
    return f"{count} rows, the first at {place}" if count > 1 else place
