"""Mistakes of the causal mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnbench.correctness.mistakes.guess import KEY_TILES, Guess, Tried, seeing, solving


def masks(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    index, longer = rows.index, case.seqlen_k - case.seqlen_q
    own, its = index + 1 + case.diagonal, case.mask_alignment.replace("_", " ")
    other, diagonal = ("top left", 0) if its == "bottom right" else ("bottom right", longer)
    if not case.causal:
        yield seeing("mask: it is causal, and should not be", tried, own)
        if longer:
            yield seeing(f"mask: it is causal, aligned {other}, and should not be", tried, index + 1 + diagonal)
        return
    yield seeing("mask: each query sees one key too many", tried, own + 1)
    yield seeing("mask: each query sees one key too few", tried, own - 1)
    yield seeing("mask: there is none, every query sees every key", tried, index * 0 + case.seqlen_k)
    if longer:
        yield seeing(f"mask: causal is aligned {other}, not {its}", tried, index + 1 + diagonal)
    if longer > 0:
        words = f"mask: the first seqlen_k - seqlen_q = {longer} keys are left out"
        later = replace(inputs, k=inputs.k[:, longer:], v=inputs.v[:, longer:])
        yield solving(words, replace(case, seqlen_k=case.seqlen_q), later, rows)
    after = (case.seqlen_k - case.diagonal - index).clamp(0, case.seqlen_k)
    turned = replace(inputs, k=inputs.k.flip(1), v=inputs.v.flip(1))
    words = "mask: it is turned round, queries see the keys after the diagonal"
    yield solving(words, case, turned, replace(rows, visible=after))
    yield from _rows_miscounted(tried)


def _rows_miscounted(tried: Tried) -> Iterator[Guess]:
    case, index = tried.case, tried.rows.index
    group = case.num_heads // case.num_heads_kv
    if group > 1:
        words = f"mask: the query's row is divided by the group's size, {group}"
        yield seeing(words, tried, index // group + 1 + case.diagonal)
    for tile in KEY_TILES:
        words = f"mask: it ends with whole tiles of {tile} query rows, each sees what the last row of its tile does"
        yield seeing(words, tried, (index // tile + 1) * tile + case.diagonal)
