"""Triton's intermediate representation (TTIR), read from the text that Triton's own compiler prints.

What is read is the form that the compiler hands on after its target-independent passes: control flow of `scf` and `cf`,
arithmetic of `arith` and `math`, memory and tensors of `tt`. Each operation keeps its source line. Syntax: the MLIR
language reference (mlir.llvm.org/docs/LangRef), and each dialect's assembly format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from attnbench.interpreters.triton.ir import Block, Function, Operation, Type
from attnbench.interpreters.triton.scanner import LABEL, NUMBER, STRING, SYMBOL, WORD, Scanner


def functions_of(text: str) -> dict[str, Function]:
    """The functions of a printed module by name. Raises IRError."""
    return {function.name: function for function in _Reader(text).module()}


class _Reader(Scanner):
    def module(self) -> Iterator[Function]:
        while self.match(re.compile(r"#\w+ = [^\n]*\n")):
            pass
        self.need("module")
        if self.match(re.compile("attributes")):
            self.attributes()
        self.need("{")
        while not self.take("}"):
            yield self.function()

    def function(self) -> Function:
        self.need("tt.func")
        while (symbol := self.match(SYMBOL)) is None:
            self.word()  # public, private
        arguments = tuple(self.within(self.argument))
        if self.take("->"):
            self.types()
        if self.take("attributes"):
            self.attributes()
        blocks = self.region() if self.peek() == "{" else ()
        self.place()
        return Function(symbol[1:].strip('"'), arguments, blocks)

    def argument(self) -> tuple[str, Type]:
        name = self.value()
        self.need(":")
        found = self.type()
        if self.peek() == "{":
            self.attributes()
        self.place()
        return name, found

    def region(self) -> tuple[Block, ...]:
        self.need("{")
        blocks = [Block((), [])]
        while not self.take("}"):
            label = self.match(LABEL)
            if label is None:
                blocks[-1].operations.append(self.operation())
                continue
            arguments = tuple(self.listed(self.argument, ")")) if self.take("(") else ()
            self.need(":")
            blocks.append(Block(arguments, [], label))
        return tuple(block for block in blocks if block.operations or block.label)

    def operation(self) -> Operation:
        results = self.results()
        if self.peek() == '"':
            made = self.generic()
        else:
            name = self.word()
            made = _FORMS.get(name, _Reader.plain)(self, name)
        made.results = results
        made.place = self.place() or made.place
        return made

    def results(self) -> tuple[str, ...]:
        if self.peek() != "%":
            return ()
        found: list[str] = []
        while True:
            name = self.value()
            count = int(self.match(NUMBER) or 1) if self.take(":") else None
            found += [name] if count is None else [f"{name}#{place}" for place in range(count)]
            if self.take("="):
                return tuple(found)
            self.need(",")

    def generic(self) -> Operation:
        """`"tt.reduce"(%a) <{axis = 1 : i32}> ({...}) : (A) -> B`"""
        name = (self.match(STRING) or "").strip('"')
        made = Operation(name, operands=tuple(self.within(self.value)))
        attributes: dict[str, str] = {}
        if self.take("<"):
            attributes |= self.attributes()
            self.need(">")
        if self.take("("):
            made.regions = tuple(self.listed(self.region, ")"))
        if self.peek() == "{":
            attributes |= self.attributes()
        made.attributes = attributes
        self.need(":")
        self.signature(made)
        return made

    def signature(self, made: Operation) -> None:
        made.types = self.types()
        if self.take("->") or self.take("to "):
            made.result_types = self.types()

    def plain(self, name: str) -> Operation:
        """Operands, keywords, `key = value` and a dictionary in any order, then types."""
        made = Operation(name)
        operands: list[str] = []
        words: list[str] = []
        attributes: dict[str, str] = {}
        while True:
            character = self.peek()
            if character == "%":
                operands.append(self.value())
            elif character == "{":
                attributes |= self.attributes()
            elif character == '"':
                words.append((self.match(STRING) or "").strip('"'))
            elif character == "@":
                words.append((self.match(SYMBOL) or "")[1:])
            elif character and character in ",()[]":
                self.at += 1
            elif character == ":":
                self.at += 1
                if self.peek() == "%":  # tt.print: a second list of operands
                    continue
                self.signature(made)
                break
            elif self.text.startswith("loc(", self.at) or character == "}":
                break
            else:
                word = self.match(WORD) or self.match(NUMBER)
                if word is None:
                    raise self.unknown(f"{name} is not known in this form")
                if self.take("="):
                    attributes[word] = self.match(WORD) or self.match(NUMBER) or ""
                else:
                    words.append(word)
        made.operands, made.attributes, made.text = tuple(operands), attributes, " ".join(words)
        return made

    def constant(self, name: str) -> Operation:
        """`dense<0.0> : tensor<4xf32>`, `1 : i32`, `true`."""
        made = Operation(name)
        if self.peek() == "{":
            self.attributes()
        if self.take("dense"):
            made.text = self.balanced()
        else:
            made.text = self.match(NUMBER) or self.word()
        made.types = (self.type(),) if self.take(":") else (Type("i1"),)
        return made

    def for_loop(self, name: str) -> Operation:
        """operands: lower bound, upper bound, step, then what the loop carries; the region's arguments accordingly."""
        unsigned = "true" if self.take("unsigned") else "false"
        counter = self.value()
        self.need("=")
        bounds = [self.value()]
        for separator in ("to", "step"):
            self.need(separator)
            bounds.append(self.value())
        carried = self.carried("iter_args")
        types = self.types() if self.take("->") else ()
        counted = self.type() if self.take(":") else Type("index")
        blocks = self.region()
        blocks[0].arguments = ((counter, counted), *((inner, kind) for (inner, _), kind in zip(carried, types)))
        if self.peek() == "{":
            self.attributes()
        operands = (*bounds, *(outer for _, outer in carried))
        return Operation(name, (), operands, {"unsigned": unsigned}, (), types, (blocks,))

    def carried(self, word: str) -> list[tuple[str, str]]:
        if word and not self.take(word):
            return []
        return self.within(self.pair)

    def pair(self) -> tuple[str, str]:
        inner = self.value()
        self.need("=")
        return inner, self.value()

    def if_else(self, name: str) -> Operation:
        condition = self.value()
        types = self.types() if self.take("->") else ()
        regions = [self.region()]
        if self.take("else"):
            regions.append(self.region())
        if self.peek() == "{":
            self.attributes()
        return Operation(name, (), (condition,), {}, (), types, tuple(regions))

    def while_loop(self, name: str) -> Operation:
        carried = self.carried("") if self.peek() == "(" else []
        made = Operation(name, operands=tuple(outer for _, outer in carried))
        if self.take(":"):
            self.signature(made)
        before = self.region()
        before[0].arguments = tuple((inner, kind) for (inner, _), kind in zip(carried, made.types))
        self.need("do")
        after = self.region()
        if self.take("attributes"):
            self.attributes()
        made.regions = (before, after)
        return made

    def branch(self, name: str) -> Operation:
        """`cf.br ^bb1(%x : i32)`, `cf.cond_br %c, ^bb1, ^bb2(%y : f32)`"""
        operands: tuple[str, ...] = ()
        if self.peek() == "%":
            operands = (self.value(),)
            self.need(",")
        successors = [self.successor()]
        while self.take(","):
            successors.append(self.successor())
        return Operation(name, operands=operands, successors=tuple(successors))

    def successor(self) -> tuple[str, tuple[str, ...]]:
        label = self.matched(LABEL, "a label")
        given: list[str] = []
        if self.take("("):
            while self.peek() == "%":
                given.append(self.value())
                self.take(",")
            if self.take(":"):
                self.types()
            self.need(")")
        return label, tuple(given)

    def comparison(self, name: str) -> Operation:
        """`arith.cmpi slt, %a, %b : i32`"""
        made = self.plain(name)
        made.attributes = {**made.attributes, "predicate": made.text.split()[0]}
        return made


_FORMS: dict[str, Callable[[_Reader, str], Operation]] = {
    "arith.constant": _Reader.constant,
    "arith.cmpi": _Reader.comparison,
    "arith.cmpf": _Reader.comparison,
    "scf.for": _Reader.for_loop,
    "scf.if": _Reader.if_else,
    "scf.while": _Reader.while_loop,
    "cf.br": _Reader.branch,
    "cf.cond_br": _Reader.branch,
}
