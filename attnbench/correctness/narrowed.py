"""Errors of fp32 cases that fp32 arithmetic has not: what the inputs are in fewer digits, and errors as large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.reference.oracle import TF32, eager, rounding_scatter, tf32

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.reference.oracle import Reference

# An error is of a size with another within this factor of it, and no row's is more than so many times the other's.
OF_A_SIZE = 2.5
ROW_APART = 12.0
# Of the largest rounding of a number.
USUAL_ROUNDING = 0.4
OF_FEWER_DIGITS = (
    "precision: no row stands out, and the error is of the size that factors or weights with 10 fraction bits or fewer "
    "make (TF32, fp16, bf16)"
)


def narrowed(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Each mistake in words, and the inputs of the problem that a kernel with it solves. inputs: fp32."""
    import torch

    def nearest(x: Tensor) -> Tensor:
        """Half of what is ignored added beforehand: to nearest, ties away from zero (PTX ISA, cvt.rna.tf32)."""
        return tf32((x.contiguous().view(torch.int32) + (1 << 12)).view(torch.float32))

    def made(names: str, form: Callable[[Tensor], Tensor]) -> Inputs:
        q, k, v = (form(x).float() if name in names else x for name, x in zip("qkv", (inputs.q, inputs.k, inputs.v)))
        return Inputs(q, k, v)

    form: Callable[[Tensor], Tensor]
    for words, form in (("cut off", tf32), ("to nearest", nearest)):
        for names in ("qkv", "qk"):
            told = f"precision: {listed(names)} have the 10 fraction bits of TF32 ({words}), not the 23 of fp32"
            yield told, made(names, form)
    for dtype, torch_type in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for names, verb in (("qkv", "are"), ("kv", "are"), ("v", "is")):
            form = partial(torch.Tensor.to, dtype=torch_type)
            yield f"precision: {listed(names)} {verb} rounded to {dtype}", made(names, form)


def listed(names: str) -> str:
    """`qkv` -> `q, k and v`"""
    return names if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def errors_of_a_size(ref: Reference, out: Tensor) -> str | None:
    """Whether every row of an fp32 case errs about as much as where its factors, or its weights, have fewer digits."""

    case, inputs, exact = ref.case, ref.inputs, ref.oracle.out
    if case.dtype != "fp32" or case.kv_dtype is not None or not bool(out.isfinite().all()):
        return None

    def by_row(error: Tensor) -> Tensor:
        return error.square().mean(dim=-1).sqrt()

    coarse = Inputs(inputs.q.bfloat16(), inputs.k.bfloat16(), inputs.v.bfloat16())
    others = [by_row(answer.out - exact) for answer in (eager(case, coarse, ref.rows), ref.eager(TF32))]
    for bits in (7, 10):
        others.append(USUAL_ROUNDING * by_row(rounding_scatter(case, inputs, ref.rows, 2.0 ** -(bits + 1), 0.0)))
    error = by_row(out - exact)
    for other in others:
        size = other.square().mean().sqrt()
        if not bool(other.isfinite().all()) or not float(size) > 0:
            continue
        times, apart = float(error.square().mean().sqrt() / size), float((error / (other + size / 10)).max())
        if 1.0 / OF_A_SIZE < times < OF_A_SIZE and apart < ROW_APART:
            return OF_FEWER_DIGITS
    return None
