"""Which query rows are compared, and a walk over them in parts, so that memory does not grow with seqlen squared."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnbench.case import Case


FULL_SEQLEN = 4096
# Every tile height in use (64, 80, 96, 128, 192, 256) begins and ends near one of these rows, or random ones hit it.
SAMPLE_TILE = 64
SAMPLE_RANDOM_ROWS = 64
SPOT, SPOT_ROWS = "spot", 6
# fp64 scores held at once; three such arrays stay below 200 MiB of extra memory.
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Rows:
    """Which query rows are compared: index (batch, num_heads, rows), ascending; coverage is "full" or "sampled".

    visible: how many keys each row sees, where that is not what the case says (`hypotheses` asks what a wrong mask
    gives).
    """

    index: Tensor
    coverage: str
    visible: Tensor | None = None


def choose_rows(case: Case, coverage: str, device: str | torch.device, seed: int | None = None) -> Rows:
    """coverage "auto", "full", "sampled" or "spot"; auto is full up to FULL_SEQLEN queries. seed: of the random rows;
    None: they follow from the case.

    A sample holds the first and last row of every tile of SAMPLE_TILE, and SAMPLE_RANDOM_ROWS random rows a head; a
    spot check holds the first row, the last, and SPOT_ROWS random ones.
    """
    import torch

    if coverage == "auto":
        coverage = "full" if case.seqlen_q <= FULL_SEQLEN else "sampled"
    heads = (case.batch, case.num_heads, 1)
    if coverage == "full":
        return Rows(torch.arange(case.seqlen_q, device=device).repeat(*heads), coverage)
    starts = torch.arange(0, case.seqlen_q, SAMPLE_TILE)
    ends = (starts + SAMPLE_TILE - 1).clamp(max=case.seqlen_q - 1)
    edges = torch.cat((starts, ends)) if coverage == "sampled" else torch.tensor([0, case.seqlen_q - 1])
    generator = torch.Generator().manual_seed(zlib.crc32(f"rows.{case.seed if seed is None else seed}".encode()))
    count = SAMPLE_RANDOM_ROWS if coverage == "sampled" else SPOT_ROWS
    drawn = torch.randint(0, case.seqlen_q, (*heads[:2], count), generator=generator)
    return Rows(torch.cat((edges.repeat(*heads), drawn), dim=-1).sort(dim=-1).values.to(device), coverage)


def visible_keys(case: Case, index: Tensor) -> Tensor:
    """How many keys each query row sees, same shape as `index`."""
    if not case.causal:
        return index.new_full(index.shape, case.seqlen_k)
    return (index + 1 + case.diagonal).clamp(0, case.seqlen_k)


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention at the chosen rows: out (batch, num_heads, rows, head_dim_v), lse (batch, num_heads, rows)."""

    out: Tensor
    lse: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of the query heads of one key/value head, or of several where each is small: a loop over many thousands of
    batch elements would take longer than their arithmetic.

    Heads and their rows are flattened behind the pairs of batch element and key/value head, of which there are
    `pairs`. index (batch, heads, rows); visible: keys each row sees, (pairs, heads of a group * rows, 1); limit: the
    most of them.
    """

    batch: slice
    kv_heads: slice
    heads: slice
    chunk: slice
    index: Tensor
    visible: Tensor
    limit: int

    @property
    def pairs(self) -> int:
        return int(self.visible.shape[0])

    def queries(self, q: Tensor) -> Tensor:
        """(pairs, heads * rows, head_dim)"""
        group = q[self.batch, :, self.heads].transpose(1, 2)
        rows = self.index[..., None].expand(*self.index.shape, q.shape[-1])
        return group.gather(2, rows).reshape(self.pairs, -1, q.shape[-1])

    def keys(self, x: Tensor) -> Tensor:
        """(pairs, limit, dim) of k or v: only the keys that some row of the part sees."""
        return x[self.batch, : self.limit, self.kv_heads].transpose(1, 2).flatten(0, 1)

    @property
    def masked(self) -> bool:
        """Whether some row does not see all of the keys."""
        return int(self.visible.min()) < self.limit

    def hidden(self, start: int, stop: int) -> Tensor:
        """True where a row must not see key start <= j < stop; (pairs, heads * rows, stop - start)"""
        import torch

        return torch.arange(start, stop, device=self.visible.device) >= self.visible

    def store(self, result: Attention, out: Tensor, lse: Tensor) -> None:
        shape = self.index.shape
        result.out[self.batch, self.heads, self.chunk] = out.reshape(*shape, -1).to(result.out.dtype)
        result.lse[self.batch, self.heads, self.chunk] = lse.reshape(shape).to(result.lse.dtype)


def parts(case: Case, rows: Rows) -> Iterator[Part]:
    """All rows, in parts of up to CHUNK_BYTES of fp64 scores, keys and values."""
    ratio = case.num_heads // case.num_heads_kv
    count = rows.index.shape[-1]
    step = max(1, CHUNK_BYTES // (8 * case.seqlen_k * ratio))
    pair_bytes = 8 * case.seqlen_k * (ratio * count + case.head_dim + case.head_dim_v)
    heads_at_once = min(case.num_heads_kv, max(1, CHUNK_BYTES // pair_bytes))
    whole = heads_at_once == case.num_heads_kv
    batch_at_once = min(case.batch, max(1, CHUNK_BYTES // (pair_bytes * heads_at_once))) if whole else 1
    for batch in _slices(case.batch, batch_at_once):
        for kv_heads in _slices(case.num_heads_kv, heads_at_once):
            heads = slice(kv_heads.start * ratio, kv_heads.stop * ratio)
            for chunk in _slices(count, step):
                index = rows.index[batch, heads, chunk]
                visible = visible_keys(case, index) if rows.visible is None else rows.visible[batch, heads, chunk]
                pairs = index.shape[0] * (kv_heads.stop - kv_heads.start)
                flat = visible.reshape(pairs, -1, 1)
                yield Part(batch, kv_heads, heads, chunk, index, flat, int(visible.max()))


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def empty_attention(case: Case, rows: Rows, dtype: torch.dtype) -> Attention:
    import torch

    shape = rows.index.shape
    out = torch.empty((*shape, case.head_dim_v), dtype=dtype, device=rows.index.device)
    return Attention(out, torch.empty(shape, dtype=dtype, device=rows.index.device))


def row_place(rows: Rows, flat: int) -> str:
    """A flat index into (batch, num_heads, rows) in words."""
    _, heads, count = rows.index.shape
    batch, head = flat // (heads * count), flat // count % heads
    return f"batch {batch}, head {head}, row {int(rows.index.flatten()[flat])}"
