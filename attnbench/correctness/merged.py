"""Attention over two halves of the keys, put together by their log-sum-exp, as split keys, ring attention and prefix
caches do it: softmax over all keys is the mean of both answers, weighted by exp(lse).

`repro` copies `halves` and `merged`: beside torch they use names of this module only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.rows import Attention


def first_keys(case: Case) -> int:
    """Of the first half; 8-bit blocks are not cut in two."""
    whole = case.block_size if case.dtype in ("e4m3", "e5m2") and case.scaling == "block" else 1
    return case.seqlen_k // 2 // whole * whole


def halves(case: Case, inputs: Inputs) -> list[tuple[Case, Inputs]]:
    """The same queries on the first keys, and on the others."""
    cut = first_keys(case)
    return [part(case, inputs, 0, cut), part(case, inputs, cut, case.seqlen_k)]


def part(case: Case, inputs: Inputs, start: int, stop: int) -> tuple[Case, Inputs]:
    quantized = inputs.quantized
    if quantized is not None:
        held = {"k": quantized.k[:, start:stop].contiguous(), "v": quantized.v[:, start:stop].contiguous()}
        rows = {"token": 1, "block": case.block_size}.get(case.scaling)
        if rows is not None:
            scales = slice(start // rows, -(-stop // rows))
            held["k_descale"] = quantized.k_descale[:, scales].contiguous()
            held["v_descale"] = quantized.v_descale[:, scales].contiguous()
        quantized = replace(quantized, **held)
    k, v = inputs.k[:, start:stop].contiguous(), inputs.v[:, start:stop].contiguous()
    return replace(case, seqlen_k=stop - start), Inputs(inputs.q, k, v, quantized)


def merged(first: Outputs, second: Outputs) -> Outputs:
    """Of all keys, rounded to the dtype of the halves' outputs; both have an lse."""
    parts = []
    for half in (first, second):
        assert half.lse is not None, "callers ask for it"
        parts.append((half.out, half.lse.transpose(1, 2)))
    out, lse = weighted(parts)
    return Outputs(out.to(first.out.dtype), lse.transpose(1, 2).float())


def weighted(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """out (..., head_dim_v) and lse (...) of the parts together, fp64."""
    import torch

    lse = torch.logsumexp(torch.stack([lse.double() for _, lse in parts]), dim=0)
    safe = lse.masked_fill(lse == -torch.inf, 0.0)
    out = torch.stack([out.double() * (part - safe).exp()[..., None] for out, part in parts]).sum(dim=0)
    return out, lse


def merged_attention(parts: list[Attention], like: Tensor) -> Attention:
    """The same of references, rounded to the dtype of `like`."""
    out, lse = weighted([(part.out, part.lse) for part in parts])
    return replace(parts[0], out=out.to(like.dtype).double(), lse=lse)
