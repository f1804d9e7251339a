"""YAML with line numbers: plain values, and the line on which each key and each list item stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from attnbench.errors import UserError

Location = tuple[str | int, ...]  # where a value stands: ("groups", 0, "axes", "dtype")

INT = "tag:yaml.org,2002:int"
# Scientific notation without a point is text in YAML 1.1 ("1e-3"); in a suite it is always meant as a number.
SCIENTIFIC = r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"


class SuiteError(UserError, ValueError):
    """A mistake in a suite or in an override of it, in one line: where, what, the value, the way out."""


@dataclass(frozen=True, slots=True)
class Source:
    """A suite file as read: its value, and `lines` from location to line number (from 1)."""

    name: str  # the path as shown to the user
    value: dict[str, Any]
    lines: Mapping[Location, int] = field(default_factory=dict)

    def line(self, location: Location) -> int:
        """The line of a location, or of the nearest thing around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def error(self, location: Location, message: str) -> SuiteError:
        return SuiteError(f"{self.name}:{self.line(location)}: {message}")


def read_source(path: Path) -> Source:
    """The mapping in a YAML file. Raises SuiteError for anything else: no file, no YAML, no mapping, a key twice."""
    name = _shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"{name}: not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse_source(text, name)


def parse_source(text: str, name: str) -> Source:
    """The same from text; `name` stands for the file in error messages."""
    lines: dict[Location, int] = {}
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _Builder(loader, name, lines).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SuiteError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SuiteError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise SuiteError(f"{name}: nested too deeply, or an alias that contains itself") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {'list' if isinstance(value, list) else 'single value'}"
        raise SuiteError(f'{name}:1: a suite is a mapping with the key "groups"; this file is {found}')
    return Source(name, value, lines)


if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is several times faster, and optional


class _Loader(_SafeLoader):
    """NOTE: YAML 1.1 reads 010 as 8, 1:30 as 90 and 0x10 as 16, and says nothing. Whole numbers are decimal here; the
    rest stays text, and is refused where a number is wanted."""


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != INT]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(SCIENTIFIC), list("-+0123456789"))


@dataclass(frozen=True, slots=True)
class _Builder:
    """Turns composed nodes into plain values, noting lines."""

    loader: _Loader
    name: str
    lines: dict[Location, int]

    def build(self, node: yaml.Node, location: Location) -> Any:
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*location, index)) for index, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._refuse_repeated(node)
        self.loader.flatten_mapping(node)  # resolves "<<: *base"
        value = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            self.lines[(*location, key)] = key_node.start_mark.line + 1
            value[key] = self.build(value_node, (*location, key))
        return value

    def _refuse_repeated(self, node: yaml.MappingNode) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if isinstance(key, str) and key in first:
                raise SuiteError(
                    f'{self.name}:{line}: the key "{key}" is here twice (first in line {first[key]}); remove one'
                )
            if isinstance(key, str):
                first[key] = line

    def _key(self, node: yaml.Node) -> str:
        key = self.loader.construct_object(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise SuiteError(f"{self.name}:{node.start_mark.line + 1}: a key must be text; write it in quotes")
        return key


def _shown(path: Path) -> str:
    """The path as a person would write it: relative where it is below the working directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
