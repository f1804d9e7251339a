"""Mistakes of where numbers lie: strides that are not heeded, heads and rows that are taken for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.correctness.mistakes.guess import Guess, Tried, solving
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import Attention, Rows, choose_rows

if TYPE_CHECKING:
    from torch import Tensor


# Tensors of which one is read in a wrong order, or several.
TOGETHER = (("q", "k", "v"), ("q",), ("k",), ("v",), ("k", "v"))
# Scores of a whole problem that is solved to be compared at a few rows.
WHOLE_AT_MOST = 2**21
ROWS_FIRST, HEADS_FIRST = "(batch, seqlen, heads, d)", "(batch, heads, seqlen, d)"


def layouts(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    for names in TOGETHER:
        if not any(case.seqlen_q > 1 if name == "q" else case.seqlen_k > 1 for name in names):
            continue
        named = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
        are = "are" if len(names) > 1 else "is"
        words = f"strides: {named} {are} read as if rows and heads lay in order, though heads come first in memory"
        yield solving(words, case, _read(inputs, names, _heads_first_as_rows_first), rows)
        words = f"layout: {named} of {ROWS_FIRST} {are} read as {HEADS_FIRST}"
        yield solving(words, case, _read(inputs, names, _rows_first_as_heads_first), rows)
    if case.batch * case.num_heads * case.seqlen_q * case.seqlen_k > WHOLE_AT_MOST or case.num_heads == 1:
        return
    yield Guess(f"layout: the output lies as {HEADS_FIRST}", lambda: _relaid(tried, oracle(case, inputs, _all(tried))))
    words = f"layout: memory of {ROWS_FIRST} is read as {HEADS_FIRST}, and the output written so"
    yield Guess(words, lambda: _relaid(tried, _viewed(tried)))
    if case.seqlen_q == case.seqlen_k > 1:
        yield Guess("layout: rows and heads are taken for each other", lambda: _transposed(tried))


def _read(inputs: Inputs, names: tuple[str, ...], how: Callable[[Tensor], Tensor]) -> Inputs:
    q, k, v = (how(x) if name in names else x for name, x in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v)))
    return replace(inputs, q=q, k=k, v=v)


def _heads_first_as_rows_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape)


def _rows_first_as_heads_first(x: Tensor) -> Tensor:
    batch, rows, heads, dim = x.shape
    return x.reshape(batch, heads, rows, dim).transpose(1, 2)


def _all(tried: Tried) -> Rows:
    return choose_rows(tried.case, "full", tried.inputs.q.device)


def _viewed(tried: Tried) -> Attention:
    """Attention on what lies in memory, viewed with heads first; a group's key/value head is written out before."""
    case, inputs, _ = tried
    group = case.num_heads // case.num_heads_kv
    k, v = (x.repeat_interleave(group, dim=2) for x in (inputs.k, inputs.v))
    given = _read(replace(inputs, k=k, v=v), ("q", "k", "v"), _rows_first_as_heads_first)
    return oracle(replace(case, num_heads_kv=case.num_heads), given, _all(tried))


def _relaid(tried: Tried, whole: Attention) -> Attention:
    """What lies as (batch, heads, seqlen, d) handed out as (batch, seqlen, heads, d), at the tried rows."""
    batch, heads, rows, dim = whole.out.shape
    out = whole.out.reshape(batch, rows, heads, dim).transpose(1, 2)
    return _at(tried, replace(whole, out=out))


def _at(tried: Tried, whole: Attention) -> Attention:
    index = tried.rows.index
    out = whole.out.gather(2, index[..., None].expand(*index.shape, whole.out.shape[-1]))
    return Attention(out, whole.lse.gather(2, index))


def _transposed(tried: Tried) -> Attention:
    """Each row attends over the heads: what takes (batch, heads, seqlen, d) is given (batch, seqlen, heads, d)."""
    case, inputs, _ = tried
    other: Case = replace(
        case, seqlen_q=case.num_heads, seqlen_k=case.num_heads_kv, num_heads=case.seqlen_q, num_heads_kv=case.seqlen_k,
        softmax_scale=case.scale,
    )  # fmt: skip
    given = _read(inputs, ("q", "k", "v"), lambda x: x.transpose(1, 2))
    found = oracle(other, given, choose_rows(other, "full", inputs.q.device))
    return _at(tried, Attention(found.out.transpose(1, 2), found.lse.transpose(1, 2)))
