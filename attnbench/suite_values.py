"""The values that case fields take in a suite and on the command line: sizes with `1k`, names, flags, factors."""

from __future__ import annotations

import re
from typing import Any

from attnbench.case import DTYPES, FIELDS, INPUT_FILE, MAX_SIZE, RESERVED, SCALINGS
from attnbench.errors import suggest

SIZES = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_kv", "head_dim", "head_dim_v", "block_size", "seed")
FLAGS = ("causal", "hadamard")
FACTORS = ("p_scale", "softmax_scale")
OPTIONAL = ("num_heads_kv", "head_dim_v", "softmax_scale")  # null: what follows from the other fields
# `seqlen` is no field of a case: it sets, or matches, both lengths.
NAMES = ("seqlen", *FIELDS)

_UNITS = {"": 1, "k": 2**10, "m": 2**20}
SIZE = re.compile(r"([0-9]{1,10})([km]?)")


def check_name(name: str, place: str) -> None:
    """Raises ValueError, with a suggestion, for a name that is no case field. `place`: what to say of where it is."""
    if name in RESERVED:
        raise ValueError(f'"{name}"{place} is reserved for a later version and cannot be set yet; remove it')
    if name not in NAMES:
        raise ValueError(f'unknown {"key" if place else "field"} "{name}"{place}{suggest(name, NAMES)}')


def check_value(name: str, value: Any) -> Any:
    """The value of a case field as a case holds it: `1k` becomes 1024. Raises ValueError for one that cannot be."""
    if value is None and name in OPTIONAL:
        return None
    if name == "seqlen" or name in SIZES:
        return _size(name, value)
    if name in FLAGS:
        return _expect(type(value) is bool, name, value, "true or false")
    if name in FACTORS:
        return _expect(type(value) in (int, float) and 0 < value < float("inf"), name, value, "a positive number")
    return _named(name, value)


def parse_value(name: str, text: str) -> Any:
    """The same from the command line, where everything is text."""
    if name in FLAGS:
        value: Any = {"true": True, "false": False}.get(text.lower(), text)
    elif name in FACTORS:
        try:
            value = float(text)
        except ValueError:
            value = text
    else:
        value = text
    return check_value(name, value)


def parse_size(text: str) -> int | None:
    """`16k` -> 16384, `1m` -> 1048576, `512` -> 512; None where the text is no size."""
    match = SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def allowed_names(name: str) -> tuple[str, ...]:
    """What `dtype`, `scaling` and `inputs` may be."""
    if name == "inputs":
        from attnbench.reference.distributions import DISTRIBUTIONS

        return tuple(DISTRIBUTIONS)
    return {"dtype": DTYPES, "scaling": SCALINGS}[name]


def _size(name: str, value: Any) -> int:
    size = parse_size(value) if isinstance(value, str) else value
    _expect(type(size) is int, name, value, "a whole number (1k is 1024)")
    least = 0 if name == "seed" else 1
    return _expect(least <= size <= MAX_SIZE, name, size, f"between {least} and {MAX_SIZE}")


def _named(name: str, value: Any) -> str:
    allowed = allowed_names(name)
    if name == "inputs" and isinstance(value, str) and INPUT_FILE.fullmatch(value):
        return value
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _expect(holds: bool, name: str, value: Any, wanted: str) -> Any:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return value
