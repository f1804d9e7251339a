"""Where a wrong output is wrong, as a map, and the likely cause in words.

The map has a line a head and a column a tile of query rows; the cause is a known mistake that yields the very same
numbers (`hypotheses`), or else what the places have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.case import Case
from attnbench.correctness.hypotheses import KEY_TILES, alternatives, likely_mistake
from attnbench.correctness.narrowed import errors_of_a_size
from attnbench.correctness.noise import even_noise, growing_error, row_rms, small_everywhere
from attnbench.reference.oracle import Rows, visible_keys
from attnbench.reference.quantize import plain_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference


# Query rows a column of the map; wider where that would be more than MAP_COLUMNS.
MAP_TILE = 64
MAP_COLUMNS = 64
MAP_LINES = 16
FP16_LARGEST = 65504.0
# Wrong columns of the output err by at least this times the others.
APART = 3.0
LEGEND = ". worst row of the tile within its limit; 1 to 9: over it by a factor of up to 2, 4, ... 512 or more"


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
    error = (out - exact).square().mean(dim=-1).sqrt() / row_rms(exact)
    error = error.nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = error > row_limit
    nan_given = bool(ref.inputs.v.isnan().any())
    cause = None if nan_given else _columns(ref, out, eager, error > row_limit)
    if finite and not nan_given and cause is None:
        cause = likely_mistake(ref.case, ref.inputs, rows, out, exact, eager)
    if not bool(wrong.any()):
        return Diagnosis(_lse_cause(lse, ref.oracle.lse) or cause or small_everywhere(ref, out, lse, eager))
    largest = float(error.max()) / row_limit
    cause = (
        cause
        or _special(ref, rows, wrong, out)
        or growing_error(ref, out, largest)
        or errors_of_a_size(ref, out)
        or even_noise(ref, out, lse)
        or _shape(ref, out, wrong, row_limit)
    )
    return Diagnosis(cause, error_map(rows, error / row_limit))


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


def _special(ref: Reference, rows: Rows, wrong: Tensor, out: Tensor) -> str | None:
    """NaN hidden, rows that are not finite, rows of zeros."""
    import torch

    infinite = (~out.isfinite()).any(dim=-1)
    if bool(ref.inputs.v.isnan().any()):
        return None if bool(infinite.any()) else "NaN in v is hidden: the output has none"
    if bool(infinite.any()):
        poisoned = _poisoned(ref.case, rows, infinite)
        places = f"rows that are not finite: {_places(rows, infinite)}"
        return poisoned or f"{places}; never written, or overflow{_range(ref, infinite)}"
    blank = (out == 0).all(dim=-1) & wrong
    return f"rows that are 0: {_places(rows, blank)}" if torch.equal(blank, wrong) else None


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
        return f"rows that see no key are not finite ({int(blind.sum())}): -inf minus -inf, or 0 / 0"
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


def _shape(ref: Reference, out: Tensor, wrong: Tensor, row_limit: float) -> str:
    """What the wrong rows have in common."""
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
    return "; ".join(words) or f"wrong at {_places(rows, wrong)}"


def _places(rows: Rows, wrong: Tensor) -> str:
    """`12 rows, the first at batch 0, head 1, row 85`"""
    from attnbench.reference.oracle import row_place

    count = int(wrong.sum())
    place = row_place(rows, int(wrong.flatten().int().argmax()))
    return f"{count} rows, the first at {place}" if count > 1 else place
