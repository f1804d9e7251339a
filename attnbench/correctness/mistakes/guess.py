"""A known mistake in words, with the answer of a kernel that makes it.

Most are another problem: another mask, another scale, other heads. The rest compute otherwise, and bring their own
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.reference.oracle import eager, oracle
from attnbench.reference.rows import Attention, Rows

if TYPE_CHECKING:
    from torch import Tensor


# Key tile widths in use (FlashAttention-2 and -3, FlashInfer, cuDNN).
KEY_TILES = (16, 32, 64, 80, 96, 112, 128, 160, 176, 192, 224, 256)


class Guess(NamedTuple):
    """answer: at the tried rows, fp64; rounded: the same with what rounding adds, None where the case's own stands for
    it."""

    words: str
    answer: Callable[[], Attention]
    rounded: Callable[[], Attention] | None = None


class Tried(NamedTuple):
    """The problem as it was given, plain q, k, v (8 bits dequantized), and the rows at which answers are compared."""

    case: Case
    inputs: Inputs
    rows: Rows


def solving(words: str, case: Case, inputs: Inputs, rows: Rows) -> Guess:
    """What solves this other problem instead."""
    return Guess(words, lambda: oracle(case, inputs, rows), lambda: eager(case, _in_its_type(case, inputs), rows))


def _in_its_type(case: Case, inputs: Inputs) -> Inputs:
    """v as the eager reference rounds P to it; 8-bit values are left as they were dequantized."""
    import torch

    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    v = inputs.v.to(types.get(case.key_dtype, torch.float32))
    return replace(inputs, q=inputs.q.float(), k=inputs.k.float(), v=v)


def seeing(words: str, tried: Tried, visible: Tensor) -> Guess:
    """What hides other keys: visible (batch, num_heads, rows), how many each row sees."""
    return solving(words, tried.case, tried.inputs, replace(tried.rows, visible=visible.clamp(0, tried.case.seqlen_k)))


def tiles_by(count: Callable[[int], int], among: Sequence[int] = KEY_TILES) -> Iterator[tuple[int, str]]:
    """Every count but 0 that tiles come to, and the widths that come to it, in words: they explain as much."""
    widths: dict[int, list[int]] = {}
    for tile in among:
        widths.setdefault(count(tile), []).append(tile)
    for number, tiles in widths.items():
        if number:
            yield number, alternatives(tiles)


def alternatives(numbers: Sequence[int]) -> str:
    """`32, 64 or 96`"""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last
