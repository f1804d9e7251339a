"""Filters on kernels by what their names and products say: head_dim=128, dtype=bf16,fp16, causal=false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from attnbench.errors import UserError
from attnbench.machine_code.kernel import MachineKernel
from attnbench.machine_code.names import EXTRAS, Argument, Name


class Filter(Protocol):
    """Which kernels are wanted."""

    def may_keep(self, name: Name) -> bool:
        """Whether a kernel may be, by its name alone; what only its code can tell is left open."""

    def keeps(self, kernel: MachineKernel) -> bool: ...

    def refuse_nothing(self, kernels: Sequence[MachineKernel]) -> None:
        """Raises UserError where none of these is kept."""


# Part of the kernel's demangled name, whatever its arguments.
NAME = "name"


@dataclass(frozen=True)
class Only:
    """Terms that must all hold: (field, values that it may have). name=TEXT holds where the name has TEXT in it."""

    terms: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Only:
        """Reads field=value[,value]... Raises UserError for what has another form."""
        terms = []
        for text in texts:
            field, equals, values = text.partition("=")
            if not field or not equals or not values:
                raise UserError(f'--only {text}: not field=value[,value], such as "head_dim=128" or "name=FwdSm90"')
            terms.append((field.strip(), tuple(value.strip() for value in values.split(","))))
        return cls(tuple(terms))

    def may_keep(self, name: Name) -> bool:
        return all(self._holds(term, name.full, name.arguments.get(term[0])) is not False for term in self.terms)

    def keeps(self, kernel: MachineKernel) -> bool:
        return all(self._holds(term, kernel.name, kernel.arguments.get(term[0])) for term in self.terms)

    @staticmethod
    def _holds(term: tuple[str, tuple[str, ...]], name: str, value: Argument | None) -> bool | None:
        field, wanted = term
        if field == NAME:
            return any(text in name for text in wanted)
        if value is None and field in EXTRAS:
            return "false" in wanted
        return None if value is None else _text(value) in wanted

    def refuse_nothing(self, kernels: Sequence[MachineKernel]) -> None:
        """The message has what there is to choose from."""
        if any(map(self.keeps, kernels)):
            return
        if not self.terms:
            raise UserError("no kernel in what was read")
        asked = " ".join(f"{field}={','.join(values)}" for field, values in self.terms)
        fields = sorted({field for kernel in kernels for field in kernel.arguments})
        there = f"of {len(kernels)} kernels read, with the fields {', '.join(fields)}" if fields else "by their names"
        raise UserError(f"--only {asked}: keeps no kernel {there}")


def _text(value: Argument) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
