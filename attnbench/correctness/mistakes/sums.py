"""Mistakes of the sweep over key tiles: what is kept from tile to tile, and what is rescaled or divided, or is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.correctness.mistakes.guess import KEY_TILES, Guess, Tried, solving, tiles_by
from attnbench.reference.narrow import narrow_sums
from attnbench.reference.rows import Attention, Part, empty_attention, parts

if TYPE_CHECKING:
    from torch import Tensor


# Key tiles after which such sums may be rounded.
SUMMED_TILES = (16, 32, 64, 128)
# Key tiles of sweeps that forget a factor; where one reads like another, both are named.
SWEPT_TILES = (16, 32, 64, 128, 256)
DIVIDED, OUT_KEPT, SUM_KEPT = "divided", "out", "sum"
SWEEPS = {
    DIVIDED: "accumulation: the output is divided by the row sum after every tile of {} keys",
    OUT_KEPT: "rescale: the output so far is not rescaled where the maximum rises, in tiles of {} keys",
    SUM_KEPT: "rescale: the row sum so far is not rescaled where the maximum rises, in tiles of {} keys",
}


def sweeps(tried: Tried) -> Iterator[Guess]:
    for mistake, words in SWEEPS.items():
        for tile in SWEPT_TILES:
            if tile < tried.case.seqlen_k:
                yield Guess(words.format(tile), partial(_swept, tried, tile, mistake))
    yield from _values(tried)


def _swept(tried: Tried, tile: int, mistake: str) -> Attention:
    import torch

    case, inputs, rows = tried
    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        scores = (part.queries(inputs.q).double() * case.scale) @ part.keys(inputs.k).double().mT
        scores = scores.masked_fill(part.hidden(0, part.limit), -torch.inf)
        lse = scores.logsumexp(dim=-1)
        part.store(result, _sweep(part, scores, part.keys(inputs.v).double(), tile, mistake), lse)
    return result


def _sweep(part: Part, scores: Tensor, v: Tensor, tile: int, mistake: str) -> Tensor:
    import torch

    maximum = torch.full_like(scores[..., :1], -torch.inf)
    total, out = torch.zeros_like(maximum), scores.new_zeros((*scores.shape[:-1], v.shape[-1]))
    for start in range(0, part.limit, tile):
        stop = min(start + tile, part.limit)
        larger = torch.maximum(maximum, scores[..., start:stop].amax(dim=-1, keepdim=True))
        safe = larger.masked_fill(larger == -torch.inf, 0.0)
        rescale = torch.exp(maximum - safe)
        p = torch.exp(scores[..., start:stop] - safe)
        total = total * (1.0 if mistake == SUM_KEPT else rescale) + p.sum(dim=-1, keepdim=True)
        out = out * (1.0 if mistake == OUT_KEPT else rescale) + p @ v[:, start:stop]
        if mistake == DIVIDED:
            out = out / total.masked_fill(total == 0, 1.0)
        maximum = larger
    return out if mistake == DIVIDED else out / total.masked_fill(total == 0, 1.0)


def _values(tried: Tried) -> Iterator[Guess]:
    """Values that do not belong to their weights."""
    import torch

    case, inputs, rows = tried
    for first, _ in tiles_by(lambda tile: tile, among=tuple(dict.fromkeys((case.head_dim, *KEY_TILES)))):
        if first < case.seqlen_k:
            v = inputs.v.clone()
            v[:, first:] = 0.0
            words = f"sums: the values of keys from {first} on are left out, though their weights count"
            yield solving(words, case, replace(inputs, v=v), rows)
    d, d_v = case.head_dim, case.head_dim_v
    if d != d_v and case.seqlen_k > min(d, d_v):
        key = torch.arange(case.seqlen_k, device=inputs.v.device)
        for block, width in ((d, d_v), (d_v, d)):
            taken = (key // block * width + key % block).clamp(max=case.seqlen_k - 1)
            words = (
                f"values: they are out of step with the keys, which are walked in blocks of {block} and {width} rows"
            )
            yield solving(words, case, replace(inputs, v=inputs.v[:, taken]), rows)


def narrow(tried: Tried) -> Iterator[Guess]:
    """Kernels that keep sums in the inputs' type from tile to tile."""
    import torch

    case, given, rows = tried
    dtype = torch.float16 if case.dtype == "fp16" else torch.bfloat16
    inputs = Inputs(given.q.to(dtype), given.k.to(dtype), given.v.to(dtype))
    for normalized, kept in ((False, "the sum"), (True, "the mean of v so far")):
        for tile in SUMMED_TILES:
            words = f"accumulation: {kept} is kept in {case.dtype} from tile to tile of {tile} keys"
            yield Guess(words, partial(narrow_sums, case, inputs, rows, tile, normalized))
