"""Mistakes of precision, and of descales: numbers with fewer digits than they should have, or without their factor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.correctness.mistakes.guess import Guess, Tried, solving
from attnbench.correctness.narrowed import narrowed
from attnbench.reference.int8 import int8_scores
from attnbench.reference.oracle import eager, oracle
from attnbench.reference.rows import Attention, Rows, empty_attention, parts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# Elements of q and k that are rounded again to try what that does: 1 GiB of fp32, of which a few are held at once.
ROUNDED_AT_MOST = 2**28
# Head dimensions that kernels are written for.
HEAD_DIM_TILES = (16, 32, 64, 96, 128, 192, 256)


def _type(case: Case) -> torch.dtype:
    import torch

    return torch.float16 if case.dtype == "fp16" else torch.bfloat16


def dimensions(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    for width in (width for width in HEAD_DIM_TILES if width < case.head_dim):
        words = f"scores: only the first {width} of {case.head_dim} dimensions of q and k count"
        narrow = replace(case, head_dim=width, softmax_scale=case.scale)
        yield solving(words, narrow, replace(inputs, q=inputs.q[..., :width], k=inputs.k[..., :width]), rows)
        words += f", and the softmax scale is that of {width}"
        own = replace(narrow, softmax_scale=width**-0.5)
        yield solving(words, own, replace(inputs, q=inputs.q[..., :width], k=inputs.k[..., :width]), rows)


def precision(tried: Tried) -> Iterator[Guess]:
    """q, k, v or the scores with fewer digits."""
    import torch

    case, inputs, rows = tried
    if case.is_fp8 or inputs.q.numel() + inputs.k.numel() > ROUNDED_AT_MOST:
        return
    if case.dtype == "fp32":
        if case.key_dtype == "fp32":
            given = Inputs(inputs.q.float(), inputs.k.float(), inputs.v.float())
            yield from (solving(words, case, fewer, rows) for words, fewer in narrowed(given))
        yield from _scores_in_16_bits(tried)
        return
    yield from _integers(tried)
    for factors, factor in (("the scale is", 1.0), ("the scale and log2(e) are", 1.0 / math.log(2.0))):
        q = (inputs.q.float() * (case.scale * factor)).to(_type(case)).float()
        words = f"precision of the scores: q is rounded again once {factors} multiplied into it"
        yield solving(words, replace(case, softmax_scale=1.0 / factor), replace(inputs, q=q), rows)
    yield from _scores_in_16_bits(tried)
    half = torch.float16
    narrow = Inputs(inputs.q.to(half), inputs.k.to(half), inputs.v.to(half))
    if case.dtype == "bf16" and all(bool(x.isfinite().all()) for x in (narrow.q, narrow.k, narrow.v)):
        yield solving("range: bf16 goes through fp16, which has no digits left below 6e-5", case, narrow, rows)


def _integers(tried: Tried) -> Iterator[Guess]:
    case, inputs, rows = tried
    whole = max(case.seqlen_q, case.seqlen_k)
    for by, q_rows, k_rows in (
        ("in blocks of 128 and 64 rows", 128, 64), ("in blocks of 64 rows", 64, 64), ("by row", 1, 1),
        ("by head", whole, whole),
    ):  # fmt: skip
        for smooth, before in ((True, ", the mean of all keys subtracted before"), (False, "")):
            words = f"precision of the scores: q and k are rounded to 8-bit integers, scaled {by}{before}"
            yield solving(words, case, int8_scores(inputs, q_rows, k_rows, smooth)[0], rows)


def _scores_in_16_bits(tried: Tried) -> Iterator[Guess]:
    """As ONNX' Attention does unless it is told otherwise (its attribute softmax_precision)."""
    import torch

    exponent = math.log2(tried.case.scale) if tried.case.scale > 0 else 0.0
    times = ((", before the softmax scale is applied", True), (", after the softmax scale is applied", False))
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        for when, before in (("", True),) if exponent == round(exponent) else times:  # a power of two rounds nothing
            words = f"precision: scores rounded to 16 bits ({name}{when})"
            yield Guess(words, partial(_with_rounded_scores, tried, dtype, before))


def _with_rounded_scores(tried: Tried, dtype: torch.dtype, before: bool) -> Attention:
    import torch

    case, inputs, rows = tried
    result = empty_attention(case, rows, torch.float64)
    for part in parts(case, rows):
        products = part.queries(inputs.q).float() @ part.keys(inputs.k).float().mT
        products = products if before else products * case.scale
        scores = products.to(dtype).double() * (case.scale if before else 1.0)
        scores = scores.masked_fill(part.hidden(0, part.limit), -torch.inf)
        lse = scores.logsumexp(dim=-1)
        p = (scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None]).exp()
        part.store(result, p @ part.keys(inputs.v).double(), lse)
    return result


def descales(case: Case, inputs: Inputs, rows: Rows) -> Iterator[Guess]:
    """Of 8-bit inputs as they were given, not of the dequantized ones."""
    held = inputs.quantized
    if held is None:
        return

    def given(words: str, **changed: Tensor) -> Guess:
        other = replace(inputs, quantized=replace(held, **changed))
        return Guess(words, lambda: oracle(case, other, rows), lambda: eager(case, other, rows))

    if held.k_descale.shape == held.v_descale.shape:
        yield given("descales of k and v are swapped", k_descale=held.v_descale, v_descale=held.k_descale)
    ones = {name: getattr(held, name) * 0 + 1 for name in NAMES}
    yield given("no descale is applied", **ones)
    for names in TOGETHER:
        verb, them = ("is", "the first") if len(names) == 1 else ("are", "the first")
        named = " and ".join(names)
        if len(names) < len(NAMES):
            yield given(f"{named} {verb} not applied", **{name: ones[name] for name in names})
        firsts = {name: getattr(held, name).flatten()[0].expand_as(getattr(held, name)) for name in names}
        if any(getattr(held, name).numel() > 1 for name in names):
            yield given(f"{named} of {them} {_groups(held, case)} {verb} taken for all", **firsts)


NAMES = ("q_descale", "k_descale", "v_descale")
TOGETHER = (("q_descale",), ("k_descale",), ("v_descale",), ("k_descale", "v_descale"), NAMES[:2], NAMES)


def _groups(held: Quantized, case: Case) -> str:
    return {"head": "head", "token": "row", "block": "block"}.get(case.scaling, "group")
