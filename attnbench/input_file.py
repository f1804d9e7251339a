"""Inputs of the user's own: `inputs: file.safetensors`, tensors q, k, v in the layout (batch, seqlen, heads, head_dim).

All that can be wrong is checked when a suite is loaded, without torch: what the header tells (names, shapes, types) and
that every number is finite. The path is taken from the folder the command runs in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from attnbench.case import INPUT_FILE, Case

if TYPE_CHECKING:
    from torch import Tensor

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


def _opened(path: str, framework: str):
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
