"""Expressions of a suite's `derive`: numbers, names and + - * / only, computed exactly."""

from __future__ import annotations

import ast
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from attnbench.suite_values import parse_size

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
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value < float("inf")):
        found = ast.unparse(node)
        raise ArithmeticMistake(f'"{found}" in "{text}" is not allowed; use numbers, axis names and + - * / only')


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, values)
    # NOTE: by way of its text, so that 0.1 is a tenth and not the nearest double.
    return Fraction(values[node.id]) if isinstance(node, ast.Name) else Fraction(repr(node.value))
