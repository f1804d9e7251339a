"""Plain functions as plugins: right, slow, wrong."""

import time

import torch


def scores(q, k, causal, softmax_scale):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    found = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * softmax_scale
    if causal:
        hidden = torch.ones(found.shape[2:], dtype=torch.bool).triu(1 + found.shape[3] - found.shape[2])
        found = found.masked_fill(hidden, float("-inf"))
    return found


def right(q, k, v, *, causal, softmax_scale):
    found = scores(q, k, causal, softmax_scale)
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    out = torch.einsum("bhqk,bkhd->bqhd", found.softmax(dim=-1).nan_to_num(), v.float()).to(q.dtype)
    return out, found.logsumexp(dim=-1)


def slow(q, k, v, *, causal, softmax_scale):
    time.sleep(0.3)
    return right(q, k, v, causal=causal, softmax_scale=softmax_scale)[0]


def wrong(q, k, v, *, causal, softmax_scale):
    return right(q, k, v, causal=causal, softmax_scale=1.05 * softmax_scale)
