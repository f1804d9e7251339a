"""JSON values that others wrote, such as a record's `kernel` and the environment: texts printable, numbers bounded."""

from __future__ import annotations

from typing import Any

from attnbench.printable import one_line, printable

# Whole numbers beyond this are in no field of ours, and beyond some 1e308 no float holds them.
LARGEST = 2**63
# What attnbench writes is nested by less than ten levels.
DEEPEST = 32


def checked(value: Any, place: str, depth: int = DEEPEST) -> Any:
    """The value with texts and names made printable; the same object where nothing has to change.

    Raises ValueError, which names the place, for a number beyond LARGEST, nesting beyond DEEPEST and what JSON lacks.
    """
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ValueError(f"{place}: a number beyond 2**63")
        return value
    if not isinstance(value, (dict, list, tuple)):
        raise ValueError(f"{place}: {type(value).__name__} is nothing that JSON holds")
    if depth == 0:
        raise ValueError(f"{place}: nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        pairs = {one_line(str(name)): checked(item, f"{place}.{name}", depth - 1) for name, item in value.items()}
        return value if _same(list(pairs), list(value)) and _same(list(pairs.values()), list(value.values())) else pairs
    items = [checked(item, place, depth - 1) for item in value]
    return value if _same(items, value) else items


def _same(one: Any, other: Any) -> bool:
    return all(mine is theirs for mine, theirs in zip(one, other))
