"""Mistakes of which keys there are: tails, counts, what lies past the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.correctness.mistakes.guess import KEY_TILES, Guess, Tried, seeing, solving, tiles_by
from attnbench.reference.int8 import int8_scores
from attnbench.reference.rows import visible_keys

if TYPE_CHECKING:
    from torch import Tensor


# Blocks of rows that a scheduler hands out at least; and head dimensions, after which such loops have ended by mistake.
BLOCKS = (8, *KEY_TILES, 512, 1024)


def keys(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    visible = visible_keys(case, rows.index)
    for whole, tiles in tiles_by(lambda tile: (case.seqlen_k - 1) // tile * tile):
        words = f"tail: the last tile of {tiles} keys (from key {whole}) is left out"
        yield seeing(words, tried, visible.clamp(max=whole))
    if case.seqlen_k > 1:
        yield seeing("keys: the last one is left out", tried, visible.clamp(max=case.seqlen_k - 1))
        later = replace(inputs, k=inputs.k[:, 1:], v=inputs.v[:, 1:])
        shorter = replace(rows, visible=(visible - 1).clamp(min=0))
        yield solving("keys: the first one is left out", replace(case, seqlen_k=case.seqlen_k - 1), later, shorter)
    if not case.causal or case.seqlen_q == 1:
        yield from _past_the_end(tried)
    if case.seqlen_q != case.seqlen_k:
        yield from _counted_as_queries(tried)
        yield from _at_stride_of_queries(tried)


def _past_the_end(tried: Tried) -> Iterator[Guess]:
    """A last tile without a mask: zeros, or what lies behind the sequence."""
    case, inputs, _ = tried
    smooth = replace(inputs, k=inputs.k - inputs.k.mean(dim=1, keepdim=True))
    whole_numbers = None if case.is_fp8 else int8_scores(smooth, smooth=False)[0]
    for missing, tiles in tiles_by(lambda tile: -case.seqlen_k % tile):
        words = f"tail: the last tile of {tiles} keys is not masked"
        zeros = f"{words}, {missing} keys past the end count as zeros"
        yield with_keys(zeros, tried, case.seqlen_k + missing)
        before = f"{zeros}, the mean of all keys subtracted before"
        yield with_keys(before, tried._replace(inputs=smooth), case.seqlen_k + missing)
        if whole_numbers is not None:
            words_too = f"{before}, q and k rounded to 8-bit integers"
            yield with_keys(words_too, tried._replace(inputs=whole_numbers), case.seqlen_k + missing)
        if case.batch > 1:
            behind = replace(inputs, k=_behind(inputs.k, missing), v=_behind(inputs.v, missing))
            more = replace(case, seqlen_k=case.seqlen_k + missing)
            words += f", {missing} keys of the next batch element count"
            yield solving(words, more, behind, tried.rows)


def _behind(x: Tensor, count: int) -> Tensor:
    """Each sequence with the rows that lie after it; zeros after the last one."""
    import torch

    batch, rows = x.shape[:2]
    flat = torch.nn.functional.pad(x.flatten(0, 1), (0, 0, 0, 0, 0, count))
    return torch.stack([flat[b * rows : (b + 1) * rows + count] for b in range(batch)])


def with_keys(words: str, tried: Tried, count: int) -> Guess:
    """Another number of keys: fewer, or zeros past the end."""
    case, inputs, rows = tried
    k, v = (padded(tensor, count - case.seqlen_k) for tensor in (inputs.k, inputs.v))
    return solving(words, replace(case, seqlen_k=count), replace(inputs, k=k, v=v), rows)


def padded(tensor: Tensor, rows: int) -> Tensor:
    """With so many rows of zeros after each sequence; fewer rows where that is negative."""
    import torch

    return torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, rows))


def _counted_as_queries(tried: Tried) -> Iterator[Guess]:
    """seqlen_k is taken to be seqlen_q."""
    case, _, rows = tried
    words, count = "keys: their number is taken from q", case.seqlen_q
    if count > case.seqlen_k:
        past = f"{words}, {count - case.seqlen_k} keys past the end count as zeros"
        yield with_keys(past, tried, count)
        return
    only = f"{words}, only the first {count} are read"
    yield seeing(only, tried, visible_keys(case, rows.index).clamp(max=count))
    for read, tiles in tiles_by(lambda tile: -(-count // tile) * tile % case.seqlen_k):
        if count < read < case.seqlen_k:
            whole = f"{words}, rounded up to tiles of {tiles}: only the first {read} are read"
            yield seeing(whole, tried, visible_keys(case, rows.index).clamp(max=read))
    cut = with_keys(only, tried, count)
    if case.causal:  # with the mask of so many keys, beyond which nothing counts
        yield cut
        return
    for missing, tiles in tiles_by(lambda tile: -count % tile):
        zeros = f"{only}, in tiles of {tiles}, and {missing} past them count as zeros"
        fewer = replace(case, seqlen_k=count)
        inputs = replace(tried.inputs, k=tried.inputs.k[:, :count], v=tried.inputs.v[:, :count])
        yield with_keys(zeros, Tried(fewer, inputs, rows), count + missing)


def _at_stride_of_queries(tried: Tried) -> Iterator[Guess]:
    """The batch stride of k and v is taken from q."""
    case, inputs, rows = tried
    if case.batch == 1:
        return
    words = "batch: keys and values of batch element b are read from row b * seqlen_q on"
    shifted = replace(inputs, k=from_rows(inputs.k, case.seqlen_q), v=from_rows(inputs.v, case.seqlen_q))
    yield solving(words, case, shifted, rows)


def from_rows(x: Tensor, stride: int) -> Tensor:
    """Batch element b from row b * stride on, of all elements together; zeros past the last row."""
    import torch

    batch, rows = x.shape[:2]
    flat = torch.nn.functional.pad(x.flatten(0, 1), (0, 0, 0, 0, 0, batch * stride + rows))
    return torch.stack([flat[b * stride : b * stride + rows] for b in range(batch)])


def zeros_past_the_end(tried: Tried, out: Tensor, exact: Tensor) -> Guess | None:
    """However many keys of zeros count beside the right ones: each adds 1 to a row's sum, exp(lse), and nothing to its
    output. out, exact (batch, num_heads, rows, head_dim_v)."""
    from attnbench.reference.oracle import oracle

    sums = oracle(*tried).lse.exp()
    factor = (out * exact).sum(dim=-1) / exact.square().sum(dim=-1)
    counts = (sums * (1.0 / factor - 1.0)).flatten()
    counts = counts[counts.isfinite()]
    count = round(float(counts.median())) if len(counts) else 0
    if not 0 < count <= max(BLOCKS):
        return None
    found = replace(oracle(*tried), out=exact * (sums / (sums + count))[..., None])
    return Guess(f"tail: {count} keys past the end count as zeros", lambda: found)
