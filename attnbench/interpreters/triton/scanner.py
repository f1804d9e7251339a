"""Words, types and attributes in the text of an MLIR module (mlir.llvm.org/docs/LangRef)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from attnbench.interpreters.triton.ir import IRError, Type, type_of
from attnbench.interpreters.triton.locations import Locations

T = TypeVar("T")
SPACE = re.compile(r"(?:\s|//[^\n]*)+")
VALUE = re.compile(r"%[\w$.\-]+(?:#\d+)?")
WORD = re.compile(r"[A-Za-z_][\w$.]*")
NUMBER = re.compile(r"-?(?:0x[0-9A-Fa-f]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LABEL = re.compile(r"\^[\w$.]+")
SYMBOL = re.compile(r'@(?:[\w$.]+|"[^"]*")')
OPENING, CLOSING = "([{<", ")]}>"


class Scanner:
    """What stands next in the text, taken bit by bit. Raises IRError where something else does."""

    def __init__(self, text: str):
        self.text, self.at = text, 0
        self.locations = Locations(text)

    # Characters and words.

    def skip(self) -> None:
        found = SPACE.match(self.text, self.at)
        if found:
            self.at = found.end()

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.skip()
        found = pattern.match(self.text, self.at)
        if not found:
            return None
        self.at = found.end()
        return found.group()

    def take(self, literal: str) -> bool:
        self.skip()
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def need(self, literal: str) -> None:
        if not self.take(literal):
            raise self.unknown(f"expected {literal!r}")

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def unknown(self, what: str) -> IRError:
        line = self.text[self.at :].lstrip().partition("\n")[0]
        return IRError(f"{what} in Triton's intermediate representation, at {line[:80]!r}")

    def word(self) -> str:
        return self.matched(WORD, "a word")

    def value(self) -> str:
        return self.matched(VALUE, "a value")

    def matched(self, pattern: re.Pattern[str], what: str) -> str:
        found = self.match(pattern)
        if found is None:
            raise self.unknown(f"{what} expected")
        return found

    def balanced(self) -> str:
        """What stands between this opening bracket and its closing one."""
        self.skip()
        start, depth = self.at, 0
        while True:
            character = self.text[self.at]
            if character == '"':
                found = STRING.match(self.text, self.at)
                assert found is not None
                self.at = found.end()
                continue
            if self.text.startswith("->", self.at):
                self.at += 2
                continue
            depth += (character in OPENING) - (character in CLOSING)
            self.at += 1
            if depth == 0:
                return self.text[start + 1 : self.at - 1]

    def listed(self, one: Callable[[], T], closing: str) -> Iterator[T]:
        if self.take(closing):
            return
        while True:
            yield one()
            if self.take(closing):
                return
            self.need(",")

    def within(self, one: Callable[[], T]) -> list[T]:
        self.need("(")
        return list(self.listed(one, ")"))

    # Types and attributes.

    def type(self) -> Type:
        self.skip()
        start = self.at
        self.take("!")
        self.match(WORD)
        if self.text[self.at : self.at + 1] == "<":
            self.balanced()
        if self.at == start:
            raise self.unknown("a type expected")
        return type_of(self.text[start : self.at])

    def types(self) -> tuple[Type, ...]:
        """`A`, `A, B` or `(A, B)`."""
        if self.take("("):
            return tuple(self.listed(self.type, ")"))
        found = [self.type()]
        while self.take(",") or self.take("*"):
            found.append(self.type())
        return tuple(found)

    def attributes(self) -> dict[str, str]:
        """The dictionary that begins here; values as text."""
        inside = self.balanced()
        found: dict[str, str] = {}
        reader = Scanner(inside)
        while True:
            name = reader.match(WORD) or reader.match(STRING)
            if name is None:
                return found
            found[name.strip('"')] = reader.until_comma() if reader.take("=") else "true"
            reader.take(",")

    def until_comma(self) -> str:
        self.skip()
        start = self.at
        while self.at < len(self.text) and self.text[self.at] != ",":
            if self.text[self.at] in OPENING:
                self.balanced()
            elif self.text[self.at] == '"':
                self.match(STRING)
            else:
                self.at += 1
        return self.text[start : self.at].strip()

    def place(self) -> str:
        """The source line of a trailing `loc(...)`."""
        self.skip()
        if not self.text.startswith("loc(", self.at):
            return ""
        self.at += 3
        return self.locations.place(f"loc({self.balanced()})")
