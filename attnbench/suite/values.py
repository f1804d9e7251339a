"""The values that case fields take in a suite and on the command line: sizes with `1k`, names, flags, factors."""

from __future__ import annotations

import ast
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeGuard

from attnbench.case import DTYPES, FACTORS, FIELDS, INPUT_FILE, LARGEST, MASK_ALIGNMENTS, MAX_SIZE, RESERVED, SCALINGS
from attnbench.errors import suggest

SIZES = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_kv", "head_dim", "head_dim_v", "block_size", "seed",
         "calls")  # fmt: skip
FLAGS = ("causal", "hadamard")
OPTIONAL = ("num_heads_kv", "head_dim_v", "softmax_scale", "kv_dtype")  # null: what follows from the other fields
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
        return float(_expect(type(value) in (int, float) and 0 < value <= LARGEST, name, value, "a positive number"))
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
    """What `dtype`, `scaling`, `mask_alignment`, `kv_dtype` and `inputs` may be."""
    if name == "inputs":
        from attnbench.reference.distributions import DISTRIBUTIONS

        return tuple(DISTRIBUTIONS)
    return {"dtype": DTYPES, "scaling": SCALINGS, "mask_alignment": MASK_ALIGNMENTS, "kv_dtype": DTYPES}[name]


def _size(name: str, value: Any) -> int:
    size = parse_size(value) if isinstance(value, str) else value
    if type(size) is not int:
        raise _mistake(name, value, "a whole number (1k is 1024)")
    least = 0 if name == "seed" else 1
    if not least <= size <= MAX_SIZE:
        raise _mistake(name, size, f"between {least} and {MAX_SIZE}")
    return size


def _named(name: str, value: Any) -> str:
    allowed = allowed_names(name)
    if name == "inputs" and isinstance(value, str) and INPUT_FILE.fullmatch(value):
        return value
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _expect(holds: bool, name: str, value: Any, wanted: str) -> Any:
    if not holds:
        raise _mistake(name, value, wanted)
    return value


def _mistake(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name} must be {wanted}, not {value!r}")


# Expressions of a suite's `derive`: numbers, names and + - * / only, computed exactly.

_OPERATORS: Mapping[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
# Long enough for any formula a person writes; short enough that nesting cannot exhaust the parser.
_LONGEST = 200
_SIZE_WORD = re.compile(r"(?<![\w.])[0-9]+[km]\b")


class ArithmeticMistake(ValueError):
    """An expression that is not plain arithmetic, or does not come out whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: its text as written, and the names it uses, sorted."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    def whole(self, values: Mapping[str, int]) -> int:
        """The exact result. Raises ArithmeticMistake where it is not a whole number."""
        given = " and ".join(f"{name} is {values[name]}" for name in self.names)
        where = f" where {given}" if given else ""
        try:
            result = _evaluate(self.tree, values)
        except ZeroDivisionError:
            raise ArithmeticMistake(f'"{self.text}" divides by zero{where}') from None
        if result.denominator != 1:
            shown = f"{float(result):g}" if abs(result) <= sys.float_info.max else "beyond every size"
            raise ArithmeticMistake(f'"{self.text}" is {shown}{where}; it must come out whole')
        return result.numerator


def parse_expression(text: str) -> Expression:
    """Raises ArithmeticMistake for anything but numbers (`16k` too), names, + - * / and parentheses."""
    if len(text) > _LONGEST:
        raise ArithmeticMistake(f"an expression of {len(text)} characters; the most is {_LONGEST}")
    plain = _SIZE_WORD.sub(lambda match: str(parse_size(match[0]) or match[0]), text)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ArithmeticMistake(f'"{text}" is not arithmetic; use numbers, axis names and + - * / only') from None
    names: set[str] = set()
    _check(tree, text, names)
    return Expression(text, tuple(sorted(names)), tree)


def _check(node: ast.expr, text: str, names: set[str]) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, text, names)
        _check(node.right, text, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text, names)
    elif isinstance(node, ast.Name):
        names.add(node.id)
    elif not (isinstance(node, ast.Constant) and _is_number(node.value) and node.value < float("inf")):
        found = ast.unparse(node)
        raise ArithmeticMistake(f'"{found}" in "{text}" is not allowed; use numbers, axis names and + - * / only')


def _is_number(value: object) -> TypeGuard[int | float]:
    """NOTE: Python counts true among the whole numbers."""
    return type(value) in (int, float)


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, values)
    if isinstance(node, ast.Name):
        return Fraction(values[node.id])
    assert isinstance(node, ast.Constant), "`_check` has let nothing else through"
    # NOTE: by way of its text, so that 0.1 is a tenth and not the nearest double.
    return Fraction(repr(node.value))
