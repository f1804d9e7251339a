"""Why a log-sum-exp is wrong beside an output that is right: its places, its base, its sign, its layout, its digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnbench.correctness.mistakes.guess import Tried
from attnbench.correctness.mistakes.heads import heads
from attnbench.correctness.mistakes.keys import keys
from attnbench.correctness.mistakes.masks import masks
from attnbench.correctness.mistakes.scales import scales
from attnbench.reference.quantize import plain_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference


# Of an lse that is right but for rounding; what the judge allows beside it (`judge.lse_check`).
LSE_ABSOLUTE = 1e-3
LSE_RELATIVE = 1e-5
# Scores beyond which other problems are not tried on a whole lse.
TRIED_AT_MOST = 2**21
ONLY_LSE = "the output is right, and only the lse is wrong"


def lse_cause(ref: Reference, lse: Tensor) -> str | None:
    """What a wrong lse (batch, num_heads, rows) is; None where it is right."""
    exact = ref.oracle.lse
    if not bool(_off(lse, exact).any()):
        return None
    return _elsewhere(ref, lse) or _not_finite(ref, lse) or _another_number(lse, exact) or _of_a_mistake(ref, lse)


def _off(lse: Tensor, exact: Tensor) -> Tensor:
    import torch

    blind = exact == -math.inf
    allowed = LSE_ABSOLUTE + LSE_RELATIVE * exact.abs().masked_fill(blind, 0.0)
    within = torch.where(blind, lse == exact, (lse - exact).abs() <= allowed)
    return ~within


def _same(lse: Tensor, guess: Tensor) -> bool:
    """Within what rounding explains at every place."""
    return not bool(_off(lse, guess).any())


def _not_finite(ref: Reference, lse: Tensor) -> str | None:
    exact = ref.oracle.lse
    blind = exact == -math.inf
    bad = (~lse.isfinite()) & ~blind
    if bool(bad.any()):
        kind = "not finite (never written)" if bool(lse[bad].isnan().any()) else "infinite"
        return f"lse: {kind} {_where(ref, bad)}"
    held = lse[blind]
    if bool((held != -math.inf).any()) and not bool(_off(lse, exact)[~blind].any()):
        value = float(held[held != -math.inf][0])
        return f"lse: {value:g} in rows that see no key, where it must be -inf"
    return None


def _where(ref: Reference, bad: Tensor) -> str:
    """By what the places have in common: heads of a group, whole heads, or the first place."""
    import torch

    from attnbench.reference.rows import row_place

    case = ref.case
    group = case.num_heads // case.num_heads_kv
    of = torch.arange(case.num_heads, device=bad.device)
    for words, wrong_heads in (
        (f"in the heads of each group but its first (head % {group} > 0)", of % group > 0),
        ("in every head but the first", of > 0),
        ("everywhere", of >= 0),
    ):
        if group > 1 or "group" not in words:
            pattern = wrong_heads[None, :, None].expand_as(bad)
            if torch.equal(bad, pattern):
                return words
    place = row_place(ref.rows, int(bad.flatten().int().argmax()))
    return f"at {int(bad.sum())} places, the first at {place}"


def _another_number(lse: Tensor, exact: Tensor) -> str | None:
    import torch

    seen = exact.isfinite()
    guesses = (("in log2", exact / math.log(2.0)), ("negative", -exact), ("a sum, not its logarithm", exact.exp()))
    for words, guess in guesses:
        if bool(seen.any()) and _same(lse[seen], guess[seen]):
            return f"the lse is {words}"
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        rounded = lse.to(dtype).to(lse.dtype)
        unit = 2.0**-8 if name == "bf16" else 2.0**-11
        near = (lse - exact).abs() <= 1.01 * unit * exact.abs() + LSE_ABSOLUTE
        if torch.equal(rounded, lse) and bool((near | (lse == exact)).all()):
            return f"the lse is right, but rounded to 16 bits ({name})"
    if bool(seen.any()):
        offset = float((lse - exact)[seen].mean())
        if abs(offset) > LSE_ABSOLUTE and _same(lse[seen], exact[seen] + offset):
            return f"the lse is off by {offset:+.4g} everywhere"
    return None


def _elsewhere(ref: Reference, lse: Tensor) -> str | None:
    """Right numbers at wrong places; only where all rows are compared."""
    exact = ref.oracle.lse
    if ref.rows.coverage != "full":
        return None
    batch, count, rows = exact.shape
    found = [words for words, guess in _moved(exact, batch, count, rows) if _same(lse, guess)]
    return ", or ".join(found) or None


def _moved(exact: Tensor, batch: int, heads: int, rows: int) -> Iterator[tuple[str, Tensor]]:
    if heads > 1 and rows > 1:
        yield "the lse lies as (batch, seqlen, heads)", exact.transpose(1, 2).reshape(batch, heads, rows)
    if heads > 1 and batch > 1:
        yield "the lse lies as (heads, batch, seqlen)", exact.transpose(0, 1).reshape(batch, heads, rows)
    if heads > 1:
        yield "lse: every head's is head 0's", exact[:, :1].expand_as(exact)
    if batch > 1:
        yield "lse: every batch element's is element 0's", exact[:1].expand_as(exact)
    if rows > 1:
        yield "lse: every row's is that of row 0", exact[..., :1].expand_as(exact)


def _of_a_mistake(ref: Reference, lse: Tensor) -> str:
    """The lse of another problem: its own mask, its own keys, its own scale."""
    case, rows = ref.case, ref.rows
    if case.batch * case.num_heads * rows.index.shape[-1] * case.seqlen_k > TRIED_AT_MOST:
        return ONLY_LSE
    tried = Tried(case, plain_inputs(case, ref.inputs), rows)
    found = [
        guess.words for kind in (scales, masks, keys, heads) for guess in kind(tried) if _same(lse, guess.answer().lse)
    ]
    return ", or ".join(f"the lse alone: {words}" for words in dict.fromkeys(found)) or ONLY_LSE
