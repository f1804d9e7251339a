"""The suite that a run directory holds, as far as readers need it: what it is called, and the floors that it sets.

Read from YAML's events, of which no value is made: a stored suite may hold dates that are none, aliases that multiply
and lists without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import yaml

from attnbench.printable import one_line

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is several times faster, and optional


class SuiteTextError(ValueError):
    """Text that is no YAML: `LINE: what is wrong`."""


def suite_facts(text: str) -> tuple[str | None, tuple[str, ...]]:
    """What the mapping at the top has under `name`, None without it, and the texts listed under `at_least`.

    Raises SuiteTextError for what is no YAML.
    """
    try:
        found = list(_top(text))
        name = {key: value for key, value, listed in found if not listed}.get("name")
        return name, tuple(value for key, value, listed in found if listed and key == "at_least")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SuiteTextError(f"{line}: not YAML: {one_line(str(error.problem))}") from None
    except yaml.YAMLError as error:
        raise SuiteTextError(f"1: not YAML: {one_line(str(error).splitlines()[0])}") from None


def _top(text: str) -> Iterator[tuple[str, str, bool]]:
    """Keys and values of the mapping at the top, those that are single values; and the single values of lists there,
    each with its list's key and True."""
    depth, key = 0, None
    is_key = False  # whether the next value at the top is a key
    of_list = None  # the key of the list that is being read
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif depth == 1 and isinstance(event, (yaml.NodeEvent)):
            single = one_line(event.value) if isinstance(event, yaml.ScalarEvent) else None
            if not is_key and key is not None and single is not None:
                yield key, single, False
            of_list = key if isinstance(event, yaml.SequenceStartEvent) and not is_key else None
            key, is_key = single if is_key else None, not is_key
        elif depth == 2 and of_list is not None and isinstance(event, yaml.ScalarEvent):
            yield of_list, one_line(event.value), True
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth == 1:
                is_key = isinstance(event, yaml.MappingStartEvent)
