"""`--generate N`: shapes drawn by a seed, where kernels are wrong that are right at round ones.

The algorithm is fixed: `random.Random(seed).random()`, the one sequence that Python promises not to change (its
documentation, "Notes on Reproducibility"), asked in the order below. Same seed, same cases.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from attnbench.case import DEFAULTS, FIELDS, REQUIRED, Case, CaseError, forward_flops
from attnbench.suite.source import Source, SuiteError

NAME = "generated"
# Tiles of the kernels in the field; bugs of tails show one row or key beside their multiples.
TILES = (64, 80, 96, 128, 192, 224, 256)
MOST_TILES = 3
# A problem of at most so many FLOPs is judged in a fraction of a second on two cores; fp64 references take longest.
MAX_FLOPS = 2**28
MAX_CASES = 10_000
HEAD_DIMS = (16, 32, 40, 64, 72, 80, 96, 128, 192, 256)
RATIOS = (1, 1, 2, 3, 4, 8)
DTYPES = ("bf16", "bf16", "bf16", "fp16", "fp16", "fp32", "e4m3")
INPUTS = ("outliers", "channel_outliers", "sink", "large_logits", "rising", "falling")
SCALINGS = ("head", "head", "tensor", "token", "block")
# So many draws in a row that give no new case: there is none.
VAIN = 20_000


class Draw:
    """What is drawn from one seed, one number after the other."""

    def __init__(self, seed: int):
        self._next = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._next() < share

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self._next() * len(values))]

    def between(self, least: int, most: int) -> int:
        """Both ends included."""
        return least + int(self._next() * (most - least + 1))


def drawn(number: int, seed: int, keep: Callable[[Case], bool], taken: Collection[str]) -> list[Case]:
    """So many different cases that `keep` takes, and whose keys are not in `taken`; fewer where there are no more."""
    draw, found = Draw(seed), dict.fromkeys(taken)
    cases: list[Case] = []
    vain = 0
    while len(cases) < number and vain < VAIN:
        case, vain = _case(draw), vain + 1
        if case is not None and forward_flops(case) <= MAX_FLOPS and case.key not in found and keep(case):
            cases.append(case)
            found[case.key], vain = None, 0
    return cases


def _case(draw: Draw) -> Case | None:
    """The next one; None where its fields make none together."""
    seqlen_q = _length(draw)
    equal, kv, ratio = draw.chance(0.4), draw.one_of((1, 1, 2, 3)), draw.one_of(RATIOS)
    head_dim, dtype, causal = draw.one_of(HEAD_DIMS), draw.one_of(DTYPES), draw.chance(0.5)
    values: dict[str, Any] = {
        "batch": draw.one_of((1, 1, 2, 3)),
        "seqlen_q": seqlen_q,
        "seqlen_k": seqlen_q if equal else _length(draw),
        "num_heads": kv * ratio,
        "num_heads_kv": kv,
        "head_dim": head_dim,
        "head_dim_v": head_dim if draw.chance(0.85) else draw.one_of(HEAD_DIMS),
        "dtype": dtype,
        "causal": causal,
        "inputs": "normal" if draw.chance(0.7) else draw.one_of(INPUTS),
        "softmax_scale": draw.one_of((0.5, 2.0)) * head_dim**-0.5 if draw.chance(0.1) else None,
        "mask_alignment": "top_left" if causal and not equal and draw.chance(0.25) else "bottom_right",
    }
    if dtype == "e4m3":
        values |= {"scaling": draw.one_of(SCALINGS), "hadamard": draw.chance(0.5)}
    try:
        return Case.make(**values)
    except CaseError:
        return None


def _length(draw: Draw) -> int:
    """Around a tile or a multiple of it, a few rows as in decoding, or any."""
    if draw.chance(0.15):
        return draw.between(1, 8)
    if draw.chance(0.15):
        return draw.between(1, 512)
    length: int = draw.one_of(TILES) * draw.between(1, MOST_TILES) + draw.one_of((-1, 0, 1))
    return length


def source_of(cases: Sequence[Case], seed: int) -> Source:
    """A suite of one group, whose one axis binds every field that some case sets. Raises SuiteError for no case."""
    if not cases:
        raise SuiteError("--generate: no case that can be drawn is left by --only; leave out a field of it")
    names = [
        name for name in FIELDS if name in REQUIRED or any(getattr(one, name) != _default(one, name) for one in cases)
    ]
    rows = [[getattr(case, name) for name in names] for case in cases]
    group = {"name": NAME, "time": False, "axes": {", ".join(names): rows}}
    return Source(NAME, {"name": NAME, "about": f"cases drawn by seed {seed}", "groups": [group]})


def _default(case: Case, name: str) -> Any:
    return {"num_heads_kv": case.num_heads, "head_dim_v": case.head_dim}.get(name, DEFAULTS.get(name))
