"""The adapters of published kernels: their constants and the names of their kernels, read without importing them.

An adapter is a file `triton_*.py` or `pallas_*.py` here, a plugin of `attnbench run`. Its constants: PACKAGES, exact
pins; DEPENDENCIES, True where importing the package imports what it depends on; TRITON, the version of Triton that the
package runs with (adapters of Triton); INTERPRET, what `--interpret` says where it is not "auto"; ONLY, which of the
suite's cases run; NOTE, what a reader of the table must know, and how a fault was confirmed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LANGUAGES = ("triton", "pallas")


@dataclass(frozen=True)
class Adapter:
    """file: the plugin. about: the first line of its docstring. kernels: names of its backends."""

    file: Path
    about: str
    packages: tuple[str, ...]
    kernels: tuple[str, ...]
    triton: str = ""
    interpret: str = "auto"
    only: tuple[str, ...] = ("head_dim=32,64,80,128", "dtype=fp16,bf16")
    note: str = ""
    dependencies: bool = False

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def language(self) -> str:
        return self.name.partition("_")[0]

    @property
    def package(self) -> tuple[str, str]:
        """The judged package's name and version: the first pin."""
        name, _, version = self.packages[0].partition("==")
        return name, version

    @property
    def requirements(self) -> tuple[str, ...]:
        return self.packages + ((f"triton=={self.triton}",) if self.triton else ())


def adapters(folder: Path = HERE) -> list[Adapter]:
    """By language, Triton first, then by name."""
    files = [file for language in LANGUAGES for file in sorted(folder.glob(f"{language}_*.py"))]
    return [adapter_of(file) for file in files]


def adapter_of(file: Path) -> Adapter:
    """Raises ValueError for an adapter without exact pins."""
    tree = ast.parse(file.read_text())
    constants = dict(_constants(tree))
    packages = constants.get("PACKAGES")
    if not isinstance(packages, tuple) or not all("==" in each for each in packages):
        raise ValueError(f"{file.name}: PACKAGES must be a tuple of exact pins, not {packages!r}")
    about = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    told = {
        name.lower(): constants[name]
        for name in ("TRITON", "INTERPRET", "ONLY", "NOTE", "DEPENDENCIES")
        if name in constants
    }
    return Adapter(file=file, about=about, packages=packages, kernels=tuple(_kernels(tree)), **told)


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            try:
                yield node.targets[0].id, ast.literal_eval(node.value)
            except ValueError:
                continue  # BACKENDS, which no literal is


def _kernels(tree: ast.Module) -> Iterator[str]:
    """Names of backends: `name=` of calls, `name = ` of classes."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
        elif isinstance(node, ast.ClassDef):
            assigned = [each for each in node.body if isinstance(each, ast.Assign)]
            values = [each.value for each in assigned if ast.unparse(each.targets[0]) == "name"]
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value
