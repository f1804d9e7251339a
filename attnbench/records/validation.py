"""What is wrong with a value that somebody else wrote, in one line: `measurement.blocks.0.process: ..., not "x"`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnbench.printable import one_line

# Letters of a wrong value that a message shows.
SHOWN_LETTERS = 40

# Figures that are no counts. Beyond these bounds are no facts, and numbers that spoil what is computed from them.
Rate = Annotated[float, Field(ge=0, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1e6)]


class Open(BaseModel):
    """An object of which other keys are kept as they are."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


def first_mistake(error: ValidationError) -> str:
    return told(error.errors(include_url=False)[0])


def told(mistake: Mapping[str, Any]) -> str:
    """`measurement.blocks.0.samples_s.3: should be a valid number, not "x"`."""
    place = ".".join(one_line(str(part)) for part in mistake["loc"] if part not in _UNION)
    kind, words = mistake["type"], str(mistake["msg"])
    if kind == "json_invalid":
        return f"not JSON: {short(words.removeprefix('Invalid JSON: '))}"
    if kind == "missing":
        return f'it lacks "{place}"'
    if kind == "value_error":
        return words.removeprefix("Value error, ")
    words = _CLASS.sub("an object", words.removeprefix("Input "))
    return f"{place or 'a line'}: {words}, not {shown(mistake['input'])}"


# What a model is called in pydantic's words, and what it calls the branches of a union in a place.
_CLASS = re.compile(r"a valid dictionary or (an )?(instance|object) .*")
_UNION = ("str", "float", "bool", "int")


def shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return kind_of(value)
    try:
        return short(json.dumps(value))
    except ValueError:  # a whole number of more digits than Python writes
        return "a huge number"


def kind_of(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
