"""Our fused attention forward in Triton: one program per tile of query rows, an online softmax over tiles of keys.

Algorithm: FlashAttention-2 (arXiv 2307.08691), algorithm 1, with exp2 in place of exp (log2(e) is folded into the
scale). For e4m3, P is multiplied by `p_scale` before it is rounded, and the product of each key tile is added to an
fp32 accumulator (two-level accumulation, DeepSeek-V3, arXiv 2412.19437, section 3.5.2), since Hopper's FP8 tensor cores
keep about 14 bits.

Keys are walked in two loops: tiles that every row of the query tile sees whole, then the tiles on the diagonal and at
the end of the sequence, which alone are masked. Causal is bottom-right aligned. A row that sees no key gets out 0 and
lse -inf.

Two ways to read q, k and v, chosen before the launch: TMA tensor descriptors of rank 4, which fill rows past the
sequence with zeros, or pointers with masks. This module imports Triton: import it where a kernel is about to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _load_rows(
    source, batch, head, row, rows,
    stride_b, stride_h, stride_s, DIM: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, TMA: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Tile (BLOCK, BLOCK_D) of one head from row `row`; zeros past DIM and, with TAIL, past `rows`."""
    if TMA:
        tile = source.load([batch, head, row, 0]).reshape([BLOCK, BLOCK_D])
    else:
        index = row + tl.arange(0, BLOCK)
        column = tl.arange(0, BLOCK_D)
        # NOTE: 64-bit offsets; a 16k x 64-head x 256 tensor of a batch of 16 is already past 2**31 elements.
        start = source + batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h
        address = start + index[:, None].to(tl.int64) * stride_s + column[None, :]
        inside = column[None, :] < DIM
        if TAIL:
            inside = inside & (index[:, None] < rows)
        tile = tl.load(address, mask=inside, other=0.0)
    return tile


@triton.jit
def _load_values(
    source, batch, head, row, rows,
    stride_b, stride_h, stride_s, DIM: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, TMA: tl.constexpr, TRANSPOSED: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """V tile (BLOCK, BLOCK_D). TRANSPOSED: memory holds (batch, heads, dim, seqlen), since e4m3 wgmma takes both
    operands with the reduced dimension contiguous only (PTX ISA, wgmma.mma_async, matrix transpose)."""
    if TRANSPOSED:
        tile = tl.trans(source.load([batch, head, 0, row]).reshape([BLOCK_D, BLOCK]))
    else:
        tile = _load_rows(
            source, batch, head, row, rows, stride_b, stride_h, stride_s, DIM, BLOCK, BLOCK_D, TMA, TAIL
        )  # fmt: skip
    return tile


@triton.jit
def _row_descales(descale, batch, head, row, rows, blocks, heads, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """fp32 (BLOCK,): each row's descale, from (batch, blocks, heads) with one value per GROUP rows; 0 past `rows`."""
    index = row + tl.arange(0, BLOCK)
    address = descale + (batch.to(tl.int64) * blocks + index // GROUP) * heads + head
    return tl.load(address, mask=index < rows, other=0.0)


@triton.jit
def _attend(
    out, total, maximum, q, q_scale, k, v, k_descale, v_descale,
    batch, head_kv, first_row, lo, hi, seqlen_q, seqlen_k, heads_kv, k_blocks,
    stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs,
    log2_p_scale,
    CAUSAL: tl.constexpr, FP8: tl.constexpr, ROW_SCALED: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    TMA: tl.constexpr, MASKED: tl.constexpr, SCHEDULE_STAGES: tl.constexpr,
):  # fmt: skip
    """The online softmax over key tiles lo, lo + BLOCK_N, ... < hi. Returns (out, total, maximum).

    maximum is in log2 units of the scaled scores; total and out carry the factor p_scale until the epilogue.
    q_scale (BLOCK_M,): softmax_scale * log2(e) times the descales of q, and of k where that is one per head.
    """
    # One descale of k and of v for all keys of a tile: the groups are whole tiles.
    ONE_SCALE: tl.constexpr = ROW_SCALED and GROUP % BLOCK_N == 0
    for start in tl.range(lo, hi, BLOCK_N, num_stages=SCHEDULE_STAGES):
        k_tile = _load_rows(
            k, batch, head_kv, start, seqlen_k, stride_kb, stride_kh, stride_ks, HEAD_DIM, BLOCK_N, BLOCK_D, TMA, MASKED
        )  # fmt: skip
        scores = tl.dot(q, tl.trans(k_tile))
        factor = q_scale
        if ONE_SCALE:
            group = (batch.to(tl.int64) * k_blocks + start // GROUP) * heads_kv + head_kv
            factor = q_scale * tl.load(k_descale + group)
        elif ROW_SCALED:
            k_scale = _row_descales(k_descale, batch, head_kv, start, seqlen_k, k_blocks, heads_kv, GROUP, BLOCK_N)
            scores = scores * k_scale[None, :]
        if MASKED:
            column = start + tl.arange(0, BLOCK_N)
            seen = column[None, :] < seqlen_k
            if CAUSAL:
                row = first_row + tl.arange(0, BLOCK_M)
                seen = seen & (column[None, :] <= row[:, None] + seqlen_k - seqlen_q)
            # NOTE: scaled before the mask goes in: a descale of 0 would make NaN of -inf * 0.
            scores = tl.where(seen, scores * factor[:, None], float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            # A row that has seen no key yet keeps -inf; -inf - -inf would be NaN.
            base = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
            p = tl.exp2(scores - (base - log2_p_scale)[:, None])
        else:
            # One multiply-add an element: no factor is negative, so scaling the maximum gives the maximum.
            new_maximum = tl.maximum(maximum, tl.max(scores, 1) * factor)
            base = new_maximum
            p = tl.exp2(scores * factor[:, None] - (base - log2_p_scale)[:, None])
        rescale = tl.exp2(maximum - base)
        total = total * rescale + tl.sum(p, 1)
        v_tile = _load_values(
            v, batch, head_kv, start, seqlen_k, stride_vb, stride_vh, stride_vs,
            HEAD_DIM_V, BLOCK_N, BLOCK_DV, TMA, TMA and FP8, MASKED,
        )  # fmt: skip
        out = out * rescale[:, None]
        if ONE_SCALE:
            out = out + tl.dot(p.to(v_tile.dtype), v_tile) * tl.load(v_descale + group)
        elif ROW_SCALED:
            # V's descales vary along the reduced dimension. P takes their ratio to the tile's largest, so that it stays
            # at most p_scale; the tile's product takes the largest.
            v_scale = _row_descales(v_descale, batch, head_kv, start, seqlen_k, k_blocks, heads_kv, GROUP, BLOCK_N)
            largest = tl.max(v_scale, 0)
            p = p * (v_scale / tl.where(largest == 0.0, 1.0, largest))[None, :]
            out = out + tl.dot(p.to(v_tile.dtype), v_tile) * largest
        elif FP8:
            out = out + tl.dot(p.to(v_tile.dtype), v_tile)
        else:
            out = tl.dot(p.to(v_tile.dtype), v_tile, out)
        maximum = new_maximum
    return out, total, maximum


@triton.jit
def _tile_of(program, tiles_m, batch_heads, section, CAUSAL: tl.constexpr):
    """(query tile, batch x head index) of a program.

    Not causal: the query tiles of a head one after another, so that its keys stay in L2. Causal: tiles differ in work,
    and the longest go first (LPT), within sections of heads whose keys and values fit into L2 together.
    """
    if CAUSAL:
        first = program // (section * tiles_m) * section
        width = tl.minimum(section, batch_heads - first)
        rest = program - first * tiles_m
        tile = tiles_m - 1 - rest // width
        batch_head = first + rest % width
    else:
        tile = program % tiles_m
        batch_head = program // tiles_m
    return tile, batch_head


@triton.jit
def attention_forward(
    q, k, v, out, lse, q_descale, k_descale, v_descale,
    stride_qb, stride_qh, stride_qs, stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs,
    stride_ob, stride_oh, stride_os,
    batch_heads, num_heads, heads_kv, seqlen_q, seqlen_k, q_blocks, k_blocks, section, scale_log2, log2_p_scale,
    CAUSAL: tl.constexpr, FP8: tl.constexpr, ROW_SCALED: tl.constexpr, GROUP: tl.constexpr, TMA: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SCHEDULE_STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: (ceil(seqlen_q / BLOCK_M) * batch_heads,). q, k, v are pointers, or with TMA descriptors of
    (batch, heads, seqlen, dim) views. out (batch, seqlen_q, num_heads, head_dim_v), lse (batch, num_heads, seqlen_q).

    Descales (FP8): (batch, heads) each; with ROW_SCALED (batch, blocks, heads), one value per GROUP rows.
    """
    tiles_m = tl.cdiv(seqlen_q, BLOCK_M)
    tile, batch_head = _tile_of(tl.program_id(0), tiles_m, batch_heads, section, CAUSAL)
    batch = batch_head // num_heads
    head = batch_head % num_heads
    head_kv = head // (num_heads // heads_kv)
    first_row = tile * BLOCK_M

    q_tile = _load_rows(
        q, batch, head, first_row, seqlen_q, stride_qb, stride_qh, stride_qs, HEAD_DIM, BLOCK_M, BLOCK_D, TMA, True
    )  # fmt: skip
    q_scale = tl.full([BLOCK_M], 1.0, tl.float32) * scale_log2
    if ROW_SCALED:
        q_scale *= _row_descales(q_descale, batch, head, first_row, seqlen_q, q_blocks, num_heads, GROUP, BLOCK_M)
    elif FP8:
        q_scale *= tl.load(q_descale + batch_head) * tl.load(k_descale + batch * heads_kv + head_kv)

    last_row = tl.minimum(first_row + BLOCK_M, seqlen_q) - 1
    whole = seqlen_k
    stop = seqlen_k
    if CAUSAL:
        whole = tl.minimum(tl.maximum(first_row + 1 + seqlen_k - seqlen_q, 0), seqlen_k)
        stop = tl.minimum(tl.maximum(last_row + 1 + seqlen_k - seqlen_q, 0), seqlen_k)
    whole = whole // BLOCK_N * BLOCK_N

    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    result = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for MASKED in tl.static_range(2):
        lo = whole if MASKED else 0
        hi = stop if MASKED else whole
        result, total, maximum = _attend(
            result, total, maximum, q_tile, q_scale, k, v, k_descale, v_descale,
            batch, head_kv, first_row, lo, hi, seqlen_q, seqlen_k, heads_kv, k_blocks,
            stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs, log2_p_scale,
            CAUSAL, FP8, ROW_SCALED, GROUP, HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV,
            TMA, MASKED == 1, SCHEDULE_STAGES,
        )  # fmt: skip

    row = first_row + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_DV)
    inside = row < seqlen_q
    blind = total == 0.0
    natural_log = tl.where(blind, float("-inf"), (maximum + tl.log2(total) - log2_p_scale) * LN2)
    tl.store(lse + batch_head.to(tl.int64) * seqlen_q + row, natural_log, mask=inside)
    result = result / tl.where(blind, 1.0, total)[:, None]
    if FP8 and not ROW_SCALED:
        result = result * tl.load(v_descale + batch * heads_kv + head_kv)
    address = out + batch.to(tl.int64) * stride_ob + head.to(tl.int64) * stride_oh
    address = address + row[:, None].to(tl.int64) * stride_os + column[None, :]
    tl.store(address, result.to(out.dtype.element_ty), mask=inside[:, None] & (column[None, :] < HEAD_DIM_V))
