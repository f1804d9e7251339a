"""q, k and v of a case: drawn from its distribution or read from its file. Importing this module does not import torch.

Tensors are drawn in fp32 on the CPU from a generator seeded by (distribution, seed, tensor, input set): every machine
checks the same numbers, then rounded to the case's dtype (8-bit cases: bf16 originals, quantized by `quantize`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn

from attnbench.backend import Inputs, Quantized
from attnbench.case import ELEMENT_BYTES, INPUT_FILE, Case
from attnbench.reference.distributions import DISTRIBUTIONS, Draw

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open
    from torch import Tensor


def make_inputs(case: Case, device: str = "cpu", input_set: int = 0) -> Inputs:
    """The inputs of a case. Further input sets (for cache rotation) are other draws of the same distribution.

    Raises KeyError for an unknown distribution, InputFileError for a bad file (suites are checked for both beforehand).
    """
    import torch

    from attnbench.reference.quantize import quantize

    drawn = drawn_inputs(case, input_set=input_set)
    types = {"fp16": torch.float16, "fp32": torch.float32}
    of_q, of_kv = (types.get(name, torch.bfloat16) for name in (case.dtype, case.key_dtype))
    q, k, v = (tensor.to(dtype).to(device) for tensor, dtype in ((drawn.q, of_q), (drawn.k, of_kv), (drawn.v, of_kv)))
    return Inputs(q, k, v, quantize(q, k, v, case) if case.is_fp8 else None)


def drawn_inputs(case: Case, device: str = "cpu", input_set: int = 0) -> Inputs:
    """The same inputs in fp32, before they are rounded to the case's dtype."""
    if is_file(case.inputs):
        q, k, v = (tensor.to(device) for tensor in read_inputs(case, input_set))
        return Inputs(q, k, v)
    q = _randn(case, "q", input_set, case.seqlen_q, case.num_heads, case.head_dim)
    k = _randn(case, "k", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim)
    v = _randn(case, "v", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim_v)
    DISTRIBUTIONS[case.inputs].apply(Draw(q, k, v, case, _generator(case, "more", input_set)))
    return Inputs(q.to(device), k.to(device), v.to(device))


def input_tensors(inputs: Inputs) -> list[Tensor]:
    """q, k, v, and for 8-bit dtypes what `Quantized` holds, in the order of its fields."""
    quantized = inputs.quantized
    made = [] if quantized is None else [getattr(quantized, field.name) for field in fields(quantized)]
    return [inputs.q, inputs.k, inputs.v, *made]


def copy_inputs(inputs: Inputs) -> Inputs:
    """The same numbers in other memory: another input set for a rotation that keeps the cache cold."""
    return _inputs_of([tensor.clone() for tensor in input_tensors(inputs)])


@contextmanager
def in_place_of(inputs: Inputs, other: Inputs) -> Iterator[Inputs]:
    """The numbers of `other` in the memory of `inputs`, as new tensors; afterwards `inputs` hold their own again."""
    kept = copy_inputs(inputs)
    try:
        for tensor, numbers in zip(input_tensors(inputs), input_tensors(other)):
            tensor.copy_(numbers)
        yield _inputs_of([tensor.detach() for tensor in input_tensors(inputs)])
    finally:
        for tensor, numbers in zip(input_tensors(inputs), input_tensors(kept)):
            tensor.copy_(numbers)


def _inputs_of(tensors: list[Tensor]) -> Inputs:
    q, k, v, *made = tensors
    return Inputs(q, k, v, Quantized(*made) if made else None)


def input_bytes(case: Case) -> int:
    """Bytes of one input set: q, k, v, and for 8-bit dtypes the quantized tensors beside their 16-bit originals."""
    queries = case.seqlen_q * case.num_heads * case.head_dim
    keys_and_values = case.seqlen_k * case.num_heads_kv * (case.head_dim + case.head_dim_v)
    if case.is_fp8:
        return case.batch * (queries + keys_and_values) * 3
    return case.batch * (queries * ELEMENT_BYTES[case.dtype] + keys_and_values * ELEMENT_BYTES[case.key_dtype])


def _randn(case: Case, name: str, input_set: int, seqlen: int, heads: int, dim: int) -> Tensor:
    import torch

    return torch.randn((case.batch, seqlen, heads, dim), generator=_generator(case, name, input_set))


def _generator(case: Case, name: str, input_set: int) -> torch.Generator:
    import torch

    seed = zlib.crc32(f"{case.inputs}.{case.seed}.{name}.{input_set}".encode())
    return torch.Generator().manual_seed(seed)


# Inputs of the user's own: `inputs: file.safetensors`, tensors q, k, v in the layout (batch, seqlen, heads, head_dim).
#
# All that can be wrong is checked when a suite is loaded, without torch: what the header tells (names, shapes, types)
# and that every number is finite. The path is taken from the folder the command runs in.

# What attention inputs are kept in; integers and 8-bit floats have lost or packed what a kernel would be given.
DTYPES = ("F16", "BF16", "F32", "F64")
# Bytes of a number, and its exponent bits: all of them set is NaN or an infinity.
EXPONENT = {"F16": (2, 0x7C00), "BF16": (2, 0x7F80), "F32": (4, 0x7F800000), "F64": (8, 0x7FF0000000000000)}
# A safetensors file begins with the length of its JSON header; offsets count from the header's end.
HEADER_BYTES = 8
NAMES = ("q", "k", "v")


class InputFileError(ValueError):
    """A file that cannot be a case's inputs; one line that names the file, the tensor and what is wanted."""


def is_file(inputs: str) -> bool:
    """Whether the `inputs` of a case name a file: letters, digits and . _ - / up to `.safetensors`."""
    return INPUT_FILE.fullmatch(inputs) is not None


def check_header(case: Case) -> None:
    """Raises InputFileError where the file of `case.inputs` is none, or does not hold the tensors of this case."""
    path = case.inputs
    with _opened(path, "numpy") as file:
        names = set(file.keys())
        missing = [name for name in NAMES if name not in names]
        if missing:
            held = ", ".join(sorted(names)) or "nothing"
            _refuse(path, f"it has no tensor {', '.join(missing)}; it holds {held}; name them q, k, v")
        for name, wanted in _shapes(case).items():
            part = file.get_slice(name)
            if part.get_dtype() not in DTYPES:
                _refuse(path, f"{name} is {part.get_dtype()}; it must be one of {', '.join(DTYPES)}")
            if tuple(part.get_shape()) != wanted:
                _refuse(path, f"{name} has shape {tuple(part.get_shape())}; case {case.key} wants {wanted}")


def check_numbers(path: str) -> None:
    """Raises InputFileError where q, k or v of a file whose header is right holds NaN or an infinity."""
    import json

    import numpy as np

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(HEADER_BYTES), "little")
        header = json.loads(file.read(length))
    for name in NAMES:
        entry = header[name]
        width, exponent = EXPONENT[entry["dtype"]]
        start, stop = (HEADER_BYTES + length + offset for offset in entry["data_offsets"])
        bits = np.memmap(path, dtype=f"<u{width}", mode="r", offset=start, shape=((stop - start) // width,))
        bad = np.flatnonzero((bits & exponent) == exponent)
        if bad.size:
            _refuse_numbers(path, name, bad.size, np.unravel_index(bad[0], entry["shape"]))


def read_inputs(case: Case, input_set: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of the file in fp32. Further input sets are the same with the rows of v moved on by one key each.

    Raises InputFileError.
    """
    import torch

    check_header(case)
    with _opened(case.inputs, "pt") as file:
        q, k, v = (file.get_tensor(name).to(torch.float32) for name in NAMES)
    for name, tensor in zip(NAMES, (q, k, v)):
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            _refuse_numbers(case.inputs, name, len(bad), bad[0])
    return q, k, v.roll(input_set, dims=1).contiguous()


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    return {
        "q": (case.batch, case.seqlen_q, case.num_heads, case.head_dim),
        "k": (case.batch, case.seqlen_k, case.num_heads_kv, case.head_dim),
        "v": (case.batch, case.seqlen_k, case.num_heads_kv, case.head_dim_v),
    }


def _opened(path: str, framework: str) -> safe_open:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        _refuse(path, "reading it needs safetensors: pip install safetensors")
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError:
        _refuse(path, "there is no such file; the path is taken from the current folder")
    except (SafetensorError, OSError) as error:
        _refuse(path, f"it is no safetensors file: {str(error).splitlines()[0]}")


def _refuse_numbers(path: str, name: str, count: int, first: Iterable[int]) -> NoReturn:
    place = ", ".join(str(int(index)) for index in first)
    _refuse(path, f"{name} has {count:,} values that are not finite, the first at [{place}]")


def _refuse(path: str, why: str) -> NoReturn:
    raise InputFileError(f"inputs {path}: {why}")


def checksums(inputs: Inputs) -> list[int]:
    """Per tensor, the weighted sums of its bits as integers: a write changes them, and so does moving values about."""
    return [_checksum(tensor) for tensor in input_tensors(inputs)]


def written(inputs: Inputs, before: list[int]) -> str:
    """The tensors whose checksums are no longer those of `before`, by name: `q`, `k and v`, `quantized.k`; "": none."""
    held = [] if inputs.quantized is None else [f"quantized.{field.name}" for field in fields(inputs.quantized)]
    names = [name for name, old, new in zip([*NAMES, *held], before, checksums(inputs), strict=True) if old != new]
    return " and ".join(names)


def _checksum(tensor: Tensor) -> int:
    import torch

    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    bits = tensor.view(width).flatten(0, -2) if tensor.dim() > 1 else tensor.view(width)[None]
    total = 0
    for sums in (bits.sum(dim=0, dtype=torch.int64), bits.sum(dim=1, dtype=torch.int64)):
        total += int((sums * torch.arange(1, sums.numel() + 1, device=sums.device)).sum())
    return total
