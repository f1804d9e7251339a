"""Mistakes of which head, batch element or query an answer is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.correctness.mistakes.guess import Guess, Tried, alternatives, solving
from attnbench.correctness.mistakes.keys import from_rows
from attnbench.reference.rows import visible_keys

if TYPE_CHECKING:
    from torch import Tensor


# Query heads of a group that a kernel packs into one tile.
HEAD_TILES = (4, 8, 16, 32, 64)


def heads(tried: Tried) -> Iterator[Guess]:
    import torch

    case = tried.case
    of, kv = torch.arange(case.num_heads, device=tried.inputs.k.device), case.num_heads_kv
    group = case.num_heads // kv
    if 1 < kv < case.num_heads:
        yield _mapped("query heads take key/value heads in turn, not in groups", tried, of % kv)
        yield _mapped(f"query head h takes key/value head h // {kv}, not h // {group}", tried, of // kv)
        yield from _tiles_of_heads(tried, group)
    if kv > 1:
        yield _mapped("every head takes key/value head 0", tried, of * 0)
    if case.num_heads > 1:
        words = "head mapping: every head's output is head 0's"
        yield _queries(words, tried, lambda q: q[:, :, :1].expand_as(q), first_head=True)
    if group > 1:
        words = "head mapping: the query heads of each group come in reverse"
        yield _queries(words, tried, lambda q: q.unflatten(2, (kv, group)).flip(3).flatten(2, 3))
    if case.seqlen_q > 1:
        yield _row_for_all(tried, 0, "row 0")
    yield from _batch(tried)


def _mapped(words: str, tried: Tried, taken: Tensor) -> Guess:
    """taken: the key/value head of each query head."""
    case, inputs, rows = tried
    taken = taken.clamp(max=case.num_heads_kv - 1)
    given = replace(inputs, k=inputs.k[:, :, taken], v=inputs.v[:, :, taken])
    return solving(f"head mapping: {words}", replace(case, num_heads_kv=case.num_heads), given, rows)


def _tiles_of_heads(tried: Tried, group: int) -> Iterator[Guess]:
    import torch

    of = torch.arange(tried.case.num_heads, device=tried.inputs.k.device)
    fitting: dict[tuple[int, ...], tuple[Tensor, list[int]]] = {}
    for tile in HEAD_TILES:
        taken = of // tile * tile // group
        if tile < tried.case.num_heads and not torch.equal(taken, of // group):
            fitting.setdefault(tuple(taken.tolist()), (taken, []))[1].append(tile)
    for taken, tiles in fitting.values():
        words = f"tiles of {alternatives(tiles)} query heads take the key/value head of their first"
        yield _mapped(words, tried, taken)


def _queries(words: str, tried: Tried, change: Callable[[Tensor], Tensor], first_head: bool = False) -> Guess:
    case, inputs, rows = tried
    k, v = inputs.k, inputs.v
    if first_head:
        k, v = k[:, :, :1].expand_as(k), v[:, :, :1].expand_as(v)
    return solving(words, case, replace(inputs, q=change(inputs.q), k=k, v=v), rows)


def _row_for_all(tried: Tried, row: int, name: str) -> Guess:
    case, inputs, rows = tried
    visible = visible_keys(case, rows.index * 0 + row)
    q = inputs.q[:, row : row + 1].expand_as(inputs.q)
    words = f"rows: every row's output is that of {name}"
    return solving(words, case, replace(inputs, q=q), replace(rows, visible=visible))


def _batch(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    if case.batch == 1:
        return

    def first(x: Tensor) -> Tensor:
        return x[:1].expand_as(x)

    taken = replace(inputs, k=first(inputs.k), v=first(inputs.v))
    yield solving("batch: every batch element takes the keys and values of element 0", case, taken, rows)
    yield solving("batch: every batch element's output is element 0's", case, replace(taken, q=first(inputs.q)), rows)
    if case.seqlen_q > 1:
        words = "batch: the queries of batch element b are read from row b on"
        yield solving(words, case, replace(inputs, q=from_rows(inputs.q, 1)), rows)
    if case.num_heads > 1:
        yield _exchanged(tried)


def _exchanged(tried: Tried) -> Guess:
    """Outputs of (batch, heads) handed out as if they lay as (heads, batch)."""
    import torch

    case, inputs, rows = tried
    group = case.num_heads // case.num_heads_kv
    place = torch.arange(case.batch * case.num_heads, device=inputs.q.device).view(case.num_heads, case.batch).T
    element, head = place // case.num_heads, place % case.num_heads

    def picked(x: Tensor, head: Tensor) -> Tensor:
        return x.transpose(1, 2)[element, head].transpose(1, 2)

    given = replace(inputs, q=picked(inputs.q, head), k=picked(inputs.k, head // group),
                    v=picked(inputs.v, head // group))  # fmt: skip
    words = "layout: batch elements and heads are taken for each other"
    return solving(words, replace(case, num_heads_kv=case.num_heads), given, rows)
