"""A right Triton attention kernel, and the same with faults that only an interpreter shows; imports Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 32


@triton.jit
def refused(rows):
    return tl.dot(rows, rows)


@triton.jit
def attention(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, heads, group, scale,
    stride_qb, stride_qs, stride_qh, stride_kb, stride_ks, stride_kh, stride_ob, stride_os, stride_oh,
    CAUSAL: tl.constexpr, FAULT: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    tile, both = tl.program_id(0), tl.program_id(1)
    batch, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    rows = (tile * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns, dims = tl.arange(0, BLOCK), tl.arange(0, DIM)
    if FAULT == "does_not_compile":
        refused(rows)
    if FAULT == "outside_scalar":
        scale = scale + tl.load(Lse + both * seqlen_q + (1 << 40))
    q_at = Q + batch * stride_qb + head * stride_qh + rows[:, None] * stride_qs + dims[None, :]
    q = tl.load(q_at, mask=rows[:, None] < seqlen_q, other=0.0)
    k_head = K + batch * stride_kb + head // group * stride_kh
    v_head = V + batch * stride_kb + head // group * stride_kh
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, DIM], tl.float32)
    for start in range(0, seqlen_k, BLOCK):
        keys = (start + columns).to(tl.int64)
        inside = keys < seqlen_k
        k_at = k_head + keys[None, :] * stride_ks + dims[:, None]
        v_at = v_head + keys[:, None] * stride_ks + dims[None, :]
        k = tl.load(k_at, mask=inside[None, :] | (FAULT == "outside"), other=0.0)
        v = tl.load(v_at, mask=inside[:, None], other=None if FAULT == "undefined" else 0.0)
        scores = tl.dot(q, k) * scale
        seen = inside[None, :]
        if CAUSAL:
            last = rows if FAULT == "top_left" else rows + seqlen_k - seqlen_q
            seen = seen & (keys[None, :] <= last[:, None])
        if FAULT != "tail":
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(scores - base[:, None])
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(p, 1)
        out = tl.dot(p.to(v.dtype), v, out * shrink[:, None])
        top = higher
    out = tl.where(total[:, None] > 0, out / total[:, None], 0.0)
    stored = rows < seqlen_q
    if FAULT == "race":
        rows = rows - tile
    if FAULT == "unwritten":
        stored = stored & (rows != 7)
    tl.store(Lse + both * seqlen_q + rows, top + tl.log(total), mask=stored)
    o_at = Out + batch * stride_ob + head * stride_oh + rows[:, None] * stride_os + dims[None, :]
    tl.store(o_at, out.to(Out.dtype.element_ty), mask=stored[:, None])


@triton.autotune(configs=[triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=[])
@triton.jit
def tuned(X, Y, size, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    if FAULT == "refused":
        tl.static_assert(BLOCK > 16)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + at, mask=at < size, other=0.0)
    if FAULT == "config":
        x = x * (BLOCK / 16)
    tl.store(Y + at, x, mask=at < size)


def launched(q, k, v, causal, softmax_scale, fault):
    assert q.is_cuda and q.device.type == "cuda"
    batch, seqlen_q, heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device="cuda")
    grid = (triton.cdiv(seqlen_q, BLOCK), batch * heads)
    given = (
        q, k, v, out, lse, seqlen_q, k.shape[1], heads, heads // k.shape[2], softmax_scale, *q.stride()[:3],
        *k.stride()[:3], *out.stride()[:3], causal, fault, BLOCK, dim,
    )  # fmt: skip
    with torch.cuda.device(q.device):
        compiled = attention[grid](*given)
        if fault == "again":
            out.zero_()
            compiled[grid](*given)
    return out, lse


def right(q, k, v, *, causal, softmax_scale):
    return launched(q, k, v, causal, softmax_scale, "")


def wrong(fault):
    def kernel(q, k, v, *, causal, softmax_scale):
        return launched(q, k, v, causal, softmax_scale, fault)

    kernel.__name__ = fault
    return kernel


def copied(fault):
    """Attention in torch, then through an autotuned copy in Triton."""

    def kernel(q, k, v, *, causal, softmax_scale):
        out, lse = right(q, k, v, causal=causal, softmax_scale=softmax_scale)
        copy = torch.empty_like(out)
        size = out.numel()
        tuned[lambda meta: (triton.cdiv(size, meta["BLOCK"]),)](out, copy, size, fault)
        return copy, lse

    kernel.__name__ = f"copied_{fault or 'right'}"
    return kernel


def torch_only(q, k, v, *, causal, softmax_scale):
    return q


def times_itself(q, k, v, *, causal, softmax_scale):
    torch.cuda.Event(enable_timing=True).record()
    return right(q, k, v, causal=causal, softmax_scale=softmax_scale)
