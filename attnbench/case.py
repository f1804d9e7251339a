"""A case: one attention problem. The glossary of the whole project.

| term | means |
|---|---|
| seqlen_q, seqlen_k | query and key length |
| num_heads, num_heads_kv | query heads and key/value heads; the GQA ratio is their quotient |
| head_dim, head_dim_v | d of q and k; d of v and the output |
| layout | (batch, seqlen, heads, head_dim), last dimension contiguous |
| causal | bottom-right aligned (lower right): query i sees key j when j <= i + seqlen_k - seqlen_q |
| mask_alignment | bottom_right, or top_left (upper left): query i sees key j when j <= i |
| softmax_scale | multiplies q k^T; None means head_dim**-0.5 |
| lse | natural log of the row sum of exp(scaled scores), fp32, (batch, num_heads, seqlen_q) |
| a row that sees no key | lse -inf, output 0 |
| descale | real value = stored value x descale, fp32 |
| dtype | fp16, bf16, fp32, e4m3, e5m2 (an 8-bit case returns bf16) |
| calls | of one sequence, with state kept between them: the first as this case, each further a query and a key more |
| kv_dtype | of k and v where q is fp32: fp16 or bf16; None means as dtype |
| scaling, block_size, hadamard | how the reference quantizer makes the 8-bit tensors |
| p_scale | the scale of P before it is rounded to 8 bits |
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from attnbench.errors import UserError

FP8_DTYPES = ("e4m3", "e5m2")
DTYPES = ("fp16", "bf16", "fp32", *FP8_DTYPES)
# Types of k and v beside an fp32 q.
KV_DTYPES = ("fp16", "bf16")
MASK_ALIGNMENTS = ("bottom_right", "top_left")
SCALINGS = ("none", "tensor", "head", "token", "block")
# DeepSeek's MLA in its latent form (576 = 512 + 64) is the largest head_dim that a published attention kernel takes.
MAX_HEAD_DIM = 576
# Sizes beyond this overflow the 32-bit lengths of every kernel interface in the field.
MAX_SIZE = 2**31 - 1
# Each is held against an oracle of its own.
MAX_CALLS = 1024
MAX_SEED = 2**63 - 1
LARGEST = sys.float_info.max

REQUIRED = ("batch", "seqlen_q", "seqlen_k", "num_heads", "head_dim")
# Positive numbers, floats however a suite writes them.
FACTORS = ("p_scale", "softmax_scale")
FP8_FIELDS = ("scaling", "block_size", "hadamard", "p_scale")
# Values of these are legal only together, as `Case.make` checks; any other field's is legal or not by itself.
INTERDEPENDENT = ("num_heads", "num_heads_kv", "head_dim", "head_dim_v", "dtype", "kv_dtype", "calls", *FP8_FIELDS)
# A file of q, k, v; no sign that would make keys ambiguous.
INPUT_FILE = re.compile(r"[\w./-]+\.safetensors")
RESERVED = ("pass", "window", "mask", "seqlens", "page_size", "num_splits")


class CaseError(UserError, ValueError):
    """A case that cannot exist; the message names the field, the value and the way out."""


class _Hashed:
    """A place for a hash once it is known. No field: it is in no comparison, no copy, no pickle and no record."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True)
class Case(_Hashed):
    """One attention problem; see the module's glossary. Build it with `Case.make`, which fills and checks."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads: int
    num_heads_kv: int
    head_dim: int
    head_dim_v: int
    dtype: str = "bf16"
    causal: bool = False
    inputs: str = "normal"
    seed: int = 0
    scaling: str = "head"
    block_size: int = 128
    hadamard: bool = False
    p_scale: float = 256.0
    softmax_scale: float | None = None
    mask_alignment: str = "bottom_right"
    kv_dtype: str | None = None
    calls: int = 1

    def __hash__(self) -> int:
        """Taken once: a report looks its cases up a million times, and there are many fields to go through."""
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash(_FIELDS_OF(self)))
            return self._hash

    @classmethod
    def make(cls, **values: Any) -> Case:
        """A checked case. `seqlen` sets both lengths; num_heads_kv and head_dim_v default to their counterparts.

        Raises CaseError for anything that cannot be a case.
        """
        _complete(values)
        _check_sizes(values)
        _check_names(values)
        for name in FACTORS:
            if values.get(name) is not None:
                values[name] = float(values[name])
        return cls(**values)

    @property
    def scale(self) -> float:
        """The softmax scale that applies."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    @property
    def diagonal(self) -> int:
        """Where the causal mask lies: query i sees key j when j <= i + diagonal."""
        return self.seqlen_k - self.seqlen_q if self.mask_alignment == "bottom_right" else 0

    @property
    def key_dtype(self) -> str:
        """The dtype of k and v."""
        return self.kv_dtype or self.dtype

    @property
    def is_fp8(self) -> bool:
        return self.dtype in FP8_DTYPES

    @property
    def key(self) -> str:
        """Readable, stable name: `bf16-d128-h16.4-b4-q4096-k4096-causal-normal.0`, then every non-default extra."""
        return key_of(*_FIELDS_OF(self))

    def to_dict(self) -> dict[str, Any]:
        """As it is stored: a field that came after version 0.1 only where it is not at its default."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if name in ALWAYS_STORED or value != DEFAULTS[name]}


@dataclass(frozen=True, slots=True)
class LaterCase(Case):
    """A case that a later version stored, with fields that are unknown here: another problem than its known fields say.

    further: what its key says beyond them. It keeps its records apart from others'; it is never run, and how many FLOPs
    it has is not known.
    """

    further: str = ""

    @property
    def key(self) -> str:
        return super(LaterCase, self).key + self.further


def key_of(
    batch: int,
    seqlen_q: int,
    seqlen_k: int,
    num_heads: int,
    num_heads_kv: int,
    head_dim: int,
    head_dim_v: int,
    dtype: str,
    causal: bool,
    inputs: str,
    seed: int,
    scaling: str,
    block_size: int,
    hadamard: bool,
    p_scale: float,
    softmax_scale: float | None,
    mask_alignment: str,
    kv_dtype: str | None,
    calls: int,
) -> str:
    """The key of the case with these fields, for who needs no more of it: to name a million cases takes no cases."""
    dims = str(head_dim) if head_dim_v == head_dim else f"{head_dim}.{head_dim_v}"
    heads = str(num_heads) if num_heads_kv == num_heads else f"{num_heads}.{num_heads_kv}"
    mask = "causal" if causal else "full"
    key = f"{dtype}-d{dims}-h{heads}-b{batch}-q{seqlen_q}-k{seqlen_k}-{mask}-{inputs}.{seed}"
    if dtype in FP8_DTYPES:
        for name, value in zip(FP8_FIELDS, (scaling, block_size, hadamard, p_scale)):
            if value != DEFAULTS[name]:
                key += f"-{name}={_plain(value)}"
    if softmax_scale is not None and softmax_scale != head_dim**-0.5:
        key += f"-softmax_scale={_plain(softmax_scale)}"
    if mask_alignment != DEFAULTS["mask_alignment"]:
        key += f"-mask_alignment={mask_alignment}"
    if kv_dtype is not None and kv_dtype != dtype:
        key += f"-kv_dtype={kv_dtype}"
    if calls != DEFAULTS["calls"]:
        key += f"-calls={calls}"
    return key


FIELDS = tuple(field.name for field in fields(Case))
_FIELD_SET = frozenset(FIELDS)
# Fields of version 0.1. One that is added later has a default and stands in no record that is at it.
ALWAYS_STORED = frozenset((
    "batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_kv", "head_dim", "head_dim_v", "dtype", "causal", "inputs",
    "seed", "scaling", "block_size", "hadamard", "p_scale", "softmax_scale",
))  # fmt: skip
# Told to functions that take an argument of their name.
FURTHER_FIELDS = tuple(name for name in FIELDS if name not in ALWAYS_STORED)
_FIELDS_OF = attrgetter(*FIELDS)
DEFAULTS: Mapping[str, Any] = {
    "dtype": "bf16", "causal": False, "inputs": "normal", "seed": 0,
    "scaling": "head", "block_size": 128, "hadamard": False, "p_scale": 256.0, "softmax_scale": None,
    "mask_alignment": "bottom_right", "kv_dtype": None, "calls": 1,
}  # fmt: skip
_POSITIVE = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_kv", "head_dim", "head_dim_v", "block_size",
             "calls")  # fmt: skip


def _complete(values: dict[str, Any]) -> None:
    """Fills, in place, what follows from the other fields."""
    if "seqlen" in values:
        seqlen = values.pop("seqlen")
        values.setdefault("seqlen_q", seqlen)
        values.setdefault("seqlen_k", seqlen)
    if not values.keys() <= _FIELD_SET:
        _refuse_unknown(values)
    for name in REQUIRED:
        if values.get(name) is None:
            raise CaseError(f'"{name}" is required and missing')
    if values.get("num_heads_kv") is None:
        values["num_heads_kv"] = values["num_heads"]
    if values.get("head_dim_v") is None:
        values["head_dim_v"] = values["head_dim"]
    if values.get("kv_dtype") == values.get("dtype", DEFAULTS["dtype"]):
        values["kv_dtype"] = None


def _refuse_unknown(values: dict[str, Any]) -> None:
    name = next(name for name in values if name not in _FIELD_SET)
    if name in RESERVED:
        raise CaseError(f'"{name}" is reserved for a later version and cannot be set yet; remove it')
    raise CaseError(f'unknown field "{name}"; the fields are {", ".join(FIELDS)}')


def _check_sizes(values: dict[str, Any]) -> None:
    for name in _POSITIVE:
        value = values.get(name, 1)
        if type(value) is not int:
            raise CaseError(f"{name} must be a whole number, not {value!r}")
        largest = MAX_CALLS if name == "calls" else MAX_SIZE
        if not 1 <= value <= largest:
            raise CaseError(f"{name} must be between 1 and {largest}, not {_shortened(value)}")
    for name in ("head_dim", "head_dim_v"):
        if values[name] > MAX_HEAD_DIM:
            raise CaseError(f"{name} {values[name]} is above {MAX_HEAD_DIM}, the largest that any backend takes")
    if values["num_heads"] % values["num_heads_kv"]:
        raise CaseError(
            f"num_heads {values['num_heads']} is not a multiple of num_heads_kv {values['num_heads_kv']}; "
            "grouped-query attention needs a whole ratio"
        )


def _check_names(values: dict[str, Any]) -> None:
    dtype, seed = values.get("dtype", "bf16"), values.get("seed", 0)
    if dtype not in DTYPES:
        raise CaseError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    kv_dtype = values.get("kv_dtype")
    if kv_dtype is not None and (dtype != "fp32" or kv_dtype not in KV_DTYPES):
        words = f"kv_dtype must be as dtype, or {' or '.join(KV_DTYPES)} beside fp32"
        raise CaseError(f"{words}, not {kv_dtype!r} beside {dtype}")
    if "scaling" in values and values["scaling"] not in SCALINGS:
        raise CaseError(f"scaling must be one of {', '.join(SCALINGS)}, not {values['scaling']!r}")
    alignment = values.get("mask_alignment", "bottom_right")
    if alignment not in MASK_ALIGNMENTS:
        raise CaseError(f"mask_alignment must be {' or '.join(MASK_ALIGNMENTS)}, not {alignment!r}")
    for name in ("causal", "hadamard"):
        if type(values.get(name, False)) is not bool:
            raise CaseError(f"{name} must be true or false, not {values[name]!r}")
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise CaseError(f"seed must be a whole number from 0 to {MAX_SEED}, not {_shortened(seed)}")
    # Which distributions there are is `inputs`' business; here only what would make keys ambiguous is refused.
    inputs = values.get("inputs", "normal")
    if type(inputs) is not str or not (inputs.isidentifier() or INPUT_FILE.fullmatch(inputs)):
        raise CaseError(f"inputs must be the name of a distribution or of a .safetensors file, not {inputs!r}")
    for name in FACTORS:
        value = values.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 < value <= LARGEST):
            raise CaseError(f"{name} must be a positive number, not {_shortened(value)}")
    if dtype in FP8_DTYPES and values.get("calls", 1) != 1:
        raise CaseError(f"calls applies to fp16, bf16 and fp32 only, not to {dtype}")
    if dtype not in FP8_DTYPES:
        for name in FP8_FIELDS:
            if name in values and values[name] != DEFAULTS[name]:
                raise CaseError(f"{name} applies to dtype {' and '.join(FP8_DTYPES)} only, not to {dtype}")
    if values.get("hadamard") and values["head_dim"] & (values["head_dim"] - 1):
        raise CaseError(f"hadamard needs a head_dim that is a power of two, not {values['head_dim']}")


def _shortened(value: Any) -> str:
    """A value in a message; a number of many digits as one."""
    return "a number of many digits" if type(value) is int and value > MAX_SEED else repr(value)


def _plain(value: Any) -> str:
    """A value in a key: exact, so that two values never share one, and the same for 128 and 128.0."""
    if value is True:
        return "on"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def attended_pairs(seqlen_q: int, seqlen_k: int, causal: bool, mask_alignment: str = "bottom_right") -> int:
    """Query-key pairs that one head attends, exactly."""
    if not causal:
        return seqlen_q * seqlen_k
    if mask_alignment == "top_left":
        square = min(seqlen_q, seqlen_k)
        return square * (square + 1) // 2 + (seqlen_q - square) * seqlen_k
    if seqlen_q <= seqlen_k:
        return seqlen_q * (2 * seqlen_k - seqlen_q + 1) // 2
    return seqlen_k * (seqlen_k + 1) // 2


def visible_scores(case: Case) -> int:
    """Scores that the mask lets through, of all heads and batches."""
    pairs = attended_pairs(case.seqlen_q, case.seqlen_k, case.causal, case.mask_alignment)
    further = case.calls - 1  # each of one query that sees all keys up to its own
    pairs += further * case.seqlen_k + further * (further + 1) // 2
    return pairs * case.num_heads * case.batch


def alignments_differ(case: Case) -> bool:
    """Whether the two alignments of the causal mask let other keys through."""
    return case.causal and case.seqlen_q != case.seqlen_k


ELEMENT_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "e4m3": 1, "e5m2": 1}
FP32_BYTES = 4


def forward_flops(case: Case) -> int:
    """FLOPs of the forward pass: 2 * attended pairs * num_heads * batch * (head_dim + head_dim_v)."""
    return 2 * visible_scores(case) * (case.head_dim + case.head_dim_v)


def output_bytes(case: Case) -> int:
    """Bytes of an element of the output: an 8-bit case returns bf16."""
    return 2 if case.is_fp8 else ELEMENT_BYTES[case.dtype]


def compulsory_bytes(case: Case) -> int:
    """Bytes that any kernel must move between memory and chip: q, k, v, out, lse and the descales, once each.

    lse counts whether or not the backend returns it, so that one case has one figure; masked parts count too.
    """
    query_rows = case.batch * case.seqlen_q * case.num_heads
    key_rows = case.batch * case.seqlen_k * case.num_heads_kv
    inputs = ELEMENT_BYTES[case.dtype] * query_rows * case.head_dim
    inputs += ELEMENT_BYTES[case.key_dtype] * key_rows * (case.head_dim + case.head_dim_v)
    outputs = query_rows * (output_bytes(case) * case.head_dim_v + FP32_BYTES)
    return inputs + outputs + FP32_BYTES * _descales(case)


def standard_bytes(case: Case) -> int:
    """Bytes that standard attention moves: the compulsory ones, and S and P, each written and read once in the
    output's type.

    Dao et al. 2022, Algorithm 0. Of a causal case too, since it masks S after it is made.
    """
    scores = case.batch * case.num_heads * case.seqlen_q * case.seqlen_k
    return compulsory_bytes(case) + 4 * output_bytes(case) * scores


def _descales(case: Case) -> int:
    """fp32 descales of q, k and v together (shapes: `backend.Quantized`); scaling none needs none."""
    if not case.is_fp8 or case.scaling == "none":
        return 0
    if case.scaling == "tensor":
        return 3

    def groups(seqlen: int) -> int:
        return {"head": 1, "token": seqlen, "block": -(-seqlen // case.block_size)}[case.scaling]

    return case.batch * (groups(case.seqlen_q) * case.num_heads + 2 * groups(case.seqlen_k) * case.num_heads_kv)
