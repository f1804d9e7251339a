"""Changes to a problem whose effect on the answer is known exactly: permutations, scales, layouts, what lies beside it.

Each makes other inputs from the case's own and undoes the change on the outputs, so that these are held against the
same oracle. The numbers are the same; what changes is where they lie, in which order, or by which power of two.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Outputs, Quantized
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


# Powers of two next to 1e-4 and 1e4. fp16 has neither the range nor, among small numbers, the digits for them.
_WIDE = (2.0**-13, 2.0**13)
V_FACTORS = {"fp16": (2.0**-3, 2.0**9), "bf16": _WIDE, "fp32": _WIDE, "e4m3": _WIDE, "e5m2": _WIDE}
# Elements of NaN before and after each tensor, and rows of it after each sequence.
GUARD_ELEMENTS = 4096
PADDING_ROWS = 256


class Changed(NamedTuple):
    """Another problem whose answer is known: `undo` makes of its outputs those of the original one."""

    case: Case
    inputs: Inputs
    undo: Callable[[Outputs], Outputs]


def scaled_v(case: Case, inputs: Inputs, factor: float) -> Changed:
    """out(s V) = s out(V); s is a power of two, so that nothing rounds. 8 bits: s goes into the descales."""
    quantized = inputs.quantized
    if quantized is not None:
        quantized = replace(quantized, v_descale=quantized.v_descale * factor)

    def undo(outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out / factor)

    return Changed(case, replace(inputs, v=inputs.v * factor, quantized=quantized), undo)


def v_small(case: Case, inputs: Inputs) -> Changed:
    return scaled_v(case, inputs, V_FACTORS[case.dtype][0])


def v_large(case: Case, inputs: Inputs) -> Changed:
    return scaled_v(case, inputs, V_FACTORS[case.dtype][1])


def half_scale(case: Case, inputs: Inputs) -> Changed:
    """q doubled, softmax_scale halved: the same logits, bit for bit. 8 bits: q_descale is doubled."""
    quantized = inputs.quantized
    if quantized is not None:
        quantized = replace(quantized, q_descale=quantized.q_descale * 2)
    changed = replace(case, softmax_scale=case.scale / 2)
    return Changed(changed, replace(inputs, q=inputs.q * 2, quantized=quantized), lambda outputs: outputs)


def permuted(case: Case, inputs: Inputs) -> Changed:
    """Batch elements in reverse, and key/value heads with their query heads in reverse."""

    def turn(tensor: Tensor, batch_dim: bool, head_dim: int | None) -> Tensor:
        dims = ([0] if batch_dim else []) + ([] if head_dim is None else [head_dim])
        return tensor.flip(dims).contiguous() if dims else tensor

    def turn_descale(descale: Tensor) -> Tensor:
        return descale if case.scaling in ("none", "tensor") else turn(descale, True, descale.dim() - 1)

    def turn_queries(tensor: Tensor, dim: int) -> Tensor:
        groups: Tensor = tensor.unflatten(dim, (case.num_heads_kv, -1))
        return groups.flip([0, dim]).flatten(dim, dim + 1).contiguous()

    def turn_query_descale(descale: Tensor) -> Tensor:
        return descale if case.scaling in ("none", "tensor") else turn_queries(descale, descale.dim() - 1)

    quantized = inputs.quantized
    if quantized is not None:
        quantized = Quantized(
            turn_queries(quantized.q, 2), turn(quantized.k, True, 2), turn(quantized.v, True, 2),
            turn_query_descale(quantized.q_descale), turn_descale(quantized.k_descale),
            turn_descale(quantized.v_descale),
        )  # fmt: skip
    changed = Inputs(turn_queries(inputs.q, 2), turn(inputs.k, True, 2), turn(inputs.v, True, 2), quantized)

    def undo(outputs: Outputs) -> Outputs:
        lse = None if outputs.lse is None else turn_queries(outputs.lse, 1)
        return Outputs(turn_queries(outputs.out, 2), lse)

    return Changed(case, changed, undo)


def expanded_heads(case: Case, inputs: Inputs) -> Changed:
    """Every query head with a key/value head of its own: grouped-query attention written out."""
    ratio = case.num_heads // case.num_heads_kv

    def expand(tensor: Tensor, dim: int) -> Tensor:
        return tensor.repeat_interleave(ratio, dim=dim)

    quantized = inputs.quantized
    if quantized is not None:
        k_descale, v_descale = quantized.k_descale, quantized.v_descale
        if case.scaling not in ("none", "tensor"):
            k_descale, v_descale = (expand(descale, descale.dim() - 1) for descale in (k_descale, v_descale))
        quantized = replace(
            quantized, k=expand(quantized.k, 2), v=expand(quantized.v, 2), k_descale=k_descale, v_descale=v_descale
        )
    changed = Inputs(inputs.q, expand(inputs.k, 2), expand(inputs.v, 2), quantized)
    return Changed(replace(case, num_heads_kv=case.num_heads), changed, lambda outputs: outputs)


def placed(case: Case, inputs: Inputs, place: Callable[[Tensor], Tensor]) -> Changed:
    """The same numbers in other memory: `place` gives a tensor of equal values to each (batch, seqlen, heads, dim)."""
    quantized = inputs.quantized
    if quantized is not None:
        quantized = replace(quantized, q=place(quantized.q), k=place(quantized.k), v=place(quantized.v))
    changed = Inputs(place(inputs.q), place(inputs.k), place(inputs.v), quantized)
    return Changed(case, changed, lambda outputs: outputs)


def in_heads(case: Case, inputs: Inputs) -> Changed:
    return placed(case, inputs, heads_first)


def in_layouts(case: Case, inputs: Inputs) -> Changed:
    """q as it is, heads before rows in k, v one element in: what one tensor's strides are is no other's."""
    quantized = inputs.quantized
    if quantized is not None:
        quantized = replace(quantized, k=heads_first(quantized.k), v=one_element_in(quantized.v))
    changed = Inputs(inputs.q, heads_first(inputs.k), one_element_in(inputs.v), quantized)
    return Changed(case, changed, lambda outputs: outputs)


def in_odd_places(case: Case, inputs: Inputs) -> Changed:
    return placed(case, inputs, one_element_in)


def in_far_rows(case: Case, inputs: Inputs) -> Changed:
    return placed(case, inputs, far_apart)


def in_guards(case: Case, inputs: Inputs) -> Changed:
    return placed(case, inputs, guarded)


def in_padding(case: Case, inputs: Inputs) -> Changed:
    return placed(case, inputs, padded)


def heads_first(tensor: Tensor) -> Tensor:
    """In memory (batch, heads, seqlen, dim): neighbouring rows of a head are neighbours."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def one_element_in(tensor: Tensor) -> Tensor:
    """Starting one element into its memory, so that no vector load of more than that is aligned."""
    return _inside(tensor, before=1, after=0)


def guarded(tensor: Tensor) -> Tensor:
    """Contiguous, with NaN on both sides: what is read before the first or past the last element shows."""
    return _inside(tensor, before=GUARD_ELEMENTS, after=GUARD_ELEMENTS)


def padded(tensor: Tensor) -> Tensor:
    """With rows of NaN after each sequence: keys past seqlen_k are NaN instead of the next batch element's."""
    batch, seqlen, heads, dim = tensor.shape
    memory = _nan(tensor, (batch, seqlen + PADDING_ROWS, heads, dim))
    view = memory[:, :seqlen]
    view.copy_(tensor)
    return view


def _inside(tensor: Tensor, before: int, after: int) -> Tensor:
    memory = _nan(tensor, (before + tensor.numel() + after,))
    view = memory[before : before + tensor.numel()].view(tensor.shape)
    view.copy_(tensor)
    return view


def _nan(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    import torch

    return torch.full(shape, float("nan"), device=like.device).to(like.dtype)


# By the probe that poses them. `repro` copies their source: beside torch they use names of this module only.
RELATIONS: Mapping[str, Callable[[Case, Inputs], Changed]] = {
    "v_small": v_small,
    "v_large": v_large,
    "half_scale": half_scale,
    "permuted": permuted,
    "gqa_dense": expanded_heads,
    "strided": in_heads,
    "layouts": in_layouts,
    "misaligned": in_odd_places,
    "far_apart": in_far_rows,
    "guarded": in_guards,
    "padded": in_padding,
}


# Tensors whose elements lie further apart than a 32-bit offset reaches, without the memory that this seems to take.

# Offsets from here on do not fit into a signed 32-bit integer.
REACH = 2**31
# Elements that rows start at a multiple of: 128 bytes of 8-bit numbers, more than any vector load or TMA box asks for.
ALIGNMENT = 128


def far_apart(tensor: Tensor) -> Tensor:
    """The same (batch, seqlen, heads, dim), its rows spread so that the last one lies REACH elements past the first.

    A tensor of one row comes back as it is. On the CPU pages are taken as they are touched, one or two a row; on CUDA
    the memory is really there (4 GiB of 16-bit numbers).
    """
    batch, seqlen, heads, dim = tensor.shape
    rows = batch * seqlen
    if rows == 1:
        return tensor
    stride = max(heads * dim, -(-REACH // ((rows - 1) * ALIGNMENT)) * ALIGNMENT)
    memory = _memory(tensor, (rows - 1) * stride + heads * dim)
    view = memory.as_strided(tensor.shape, (seqlen * stride, stride, dim, 1))
    view.copy_(tensor)
    return view


def _memory(like: Tensor, count: int) -> Tensor:
    import torch

    if like.is_cuda:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    # NOTE: private, or reading alone would take pages; no huge pages, or each row would take 2 MiB.
    pages = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8).view(like.dtype)
