"""Where a wrong output is wrong, as a map, and the likely cause in words.

The map has a line a head and a column a tile of query rows; the cause is a known mistake that yields the very same
numbers (`hypotheses`), or else what the places have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.reference.oracle import Rows, oracle, visible_keys
from attnbench.reference.quantize import plain_inputs

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


# What would give this wrong answer? The oracle is asked what known mistakes yield; the one that fits is named.
#
# A mistake is another problem: another mask, another scale, other heads, fewer keys. If the kernel's output is right
# for that problem, within a fraction of its error on the one it was given, that is most likely what it computed.

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
