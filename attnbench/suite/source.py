"""YAML with line numbers: plain values, and the line on which each key and each list item stands."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from attnbench.errors import UserError

Location = tuple[str | int, ...]  # where a value stands: ("groups", 0, "axes", "dtype")

INT = "tag:yaml.org,2002:int"
STR = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
# Scientific notation without a point is text in YAML 1.1 ("1e-3"); in a suite it is always meant as a number.
SCIENTIFIC = r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"
# What aliases may add to the values that are written down: beyond any suite, and bounded in memory.
MAX_ALIASED = 100_000
# A node's size while its parts are counted.
BEING_COUNTED = -1
# As much of a value or a name as a message shows.
SHOWN = 400


class SuiteError(UserError, ValueError):
    """A mistake in a suite or in an override of it, in one line: where, what, the value, the way out."""


@dataclass(frozen=True, slots=True)
class Source:
    """A suite file as read: its value, and its text, from which the line (from 1) of a location is found when asked."""

    name: str  # the path as shown to the user
    value: dict[str, Any]
    text: str = field(default="", repr=False)

    def line(self, location: Location) -> int:
        """The line of a location, or of the nearest thing around it."""
        return _Tree(self.name).line(_composed(self.text), location)

    def error(self, location: Location, message: str) -> SuiteError:
        return SuiteError(f"{self.name}:{self.line(location)}: {_short(message)}")


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
    try:
        node = _compose(text)
        value = None if node is None else _Tree(name).value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SuiteError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {_short(error.problem)}") from None
    except yaml.YAMLError as error:
        raise SuiteError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise SuiteError(f"{name}: nested too deeply, or an alias that contains itself") from None
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {'list' if isinstance(value, list) else 'single value'}"
        raise SuiteError(f'{name}:1: a suite is a mapping with the key "groups"; this file is {found}')
    return Source(name, value, text)


def _short(message: str | None) -> str:
    """A message that fits a terminal, whatever it quotes."""
    text = message or ""
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}"


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


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


@lru_cache(maxsize=1)
def _composed(text: str) -> yaml.Node | None:
    """The tree of a text that has been read before, for the lines of its mistakes."""
    return _compose(text)


class _Tree:
    """Composed nodes as plain values, and the lines of these. What an alias names is built once and shared."""

    def __init__(self, name: str):
        self._name = name
        self._loader = _Loader("")  # constructs scalars
        self._built: dict[yaml.Node, Any] = {}

    def value(self, root: yaml.Node) -> Any:
        """Raises SuiteError for what is no plain value, and where aliases stand for more than anybody writes down."""
        sizes: dict[yaml.Node, int] = {}
        added = _expanded_size(root, sizes) - len(sizes)
        if added > MAX_ALIASED:
            much = f"{added:,}" if added < 10**12 else "more than 10^12"
            raise self._error(root, f"aliases (*name) repeat {much} values; the most is {MAX_ALIASED:,}")
        return self._value(root)

    def line(self, root: yaml.Node | None, location: Location) -> int:
        """The line of a location, or of the nearest thing around it."""
        node, line = root, 1 if root is None else _line_of(root)
        for part in location:
            if isinstance(node, yaml.MappingNode):
                key_node, node = self._pairs(node).get(str(part), (None, None))
                line = line if key_node is None else _line_of(key_node)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = _line_of(node)
            else:
                break
        return line

    def _error(self, node: yaml.Node, message: str) -> SuiteError:
        return SuiteError(f"{self._name}:{_line_of(node)}: {message}")

    def _value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node not in self._built:
            if isinstance(node, yaml.MappingNode):
                pairs = self._pairs(node)
                self._built[node] = {key: self._value(value_node) for key, (_, value_node) in pairs.items()}
            else:
                self._built[node] = [self._value(item) for item in node.value]
        return self._built[node]

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == STR:
            return node.value
        try:
            value = self._loader.construct_object(node)
            if isinstance(value, (list, dict, set)):
                raise TypeError("a collection that a single value was tagged to be")
            return value
        except yaml.YAMLError:
            raise
        except Exception as error:  # whatever int(), datetime() or a table make of text that is none of theirs
            kind, why = node.tag.rpartition(":")[2], str(error) if isinstance(error, ValueError) else "it is none"
            message = f'"{node.value[:60]}" cannot be read as {kind} ({why}); text stands in quotes, without a tag'
            raise self._error(node, message) from None

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value nodes by key, in order; what `<<` merges comes first, and gives way to the mapping's own."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        first: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = "<<" if key_node.tag == MERGE else self._key(key_node)
            if key in first:
                line = _line_of(first[key])
                raise self._error(key_node, f'the key "{_short(key)}" is here twice (first in line {line}); remove one')
            first[key] = key_node
            if key_node.tag == MERGE:
                for mapping in reversed(self._merged(value_node)):
                    merged |= self._pairs(mapping)
            else:
                own[key] = key_node, value_node
        return merged | own

    def _merged(self, node: yaml.Node) -> list[yaml.MappingNode]:
        """What `<<` merges: a mapping or a list of them. Raises SuiteError for anything else."""
        found = node.value if isinstance(node, yaml.SequenceNode) else [node]
        odd = next((item for item in found if not isinstance(item, yaml.MappingNode)), None)
        if odd is not None:
            raise self._error(odd, '"<<" merges a mapping, or a list of mappings')
        return [item for item in found if isinstance(item, yaml.MappingNode)]

    def _key(self, node: yaml.Node) -> str:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise self._error(node, "a key must be text; write it in quotes")
        return key


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _expanded_size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Values that a node comes to where every alias is replaced by what it names; `sizes` keeps those of all nodes."""
    if node in sizes:
        if sizes[node] == BEING_COUNTED:
            raise RecursionError("an alias that contains itself")
        return sizes[node]
    sizes[node] = BEING_COUNTED
    parts: Iterable[yaml.Node] = () if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        parts = itertools.chain.from_iterable(node.value)
    sizes[node] = 1 + sum(_expanded_size(part, sizes) for part in parts)
    return sizes[node]


def _shown(path: Path) -> str:
    """The path as a person would write it: relative where it is below the working directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
