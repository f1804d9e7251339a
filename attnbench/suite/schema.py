"""The suite format at the file boundary: pydantic models, their error messages, and the JSON Schema for editors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from attnbench.case import FACTORS
from attnbench.errors import suggest
from attnbench.floor import GEMM, GRAMMAR, parse_floor
from attnbench.settings import Checks, Emulation, Factors, StrictModel, Timing
from attnbench.suite.source import Location, Source, SuiteError
from attnbench.suite.values import FLAGS, NAMES, OPTIONAL, SIZE, allowed_names

# Group and suite names become parts of folder names and of report headings.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


def _name_probes(schema: dict[str, Any]) -> None:
    """Makes it say: one name, or a list of them."""
    from attnbench.correctness.probes import PROBES

    names = {"enum": ["all", *PROBES]}
    about = {name: schema[name] for name in ("default", "description", "title")}
    schema.clear()
    schema.update({"anyOf": [names, {"items": names, "type": "array"}], **about})


def _value_schema(name: str) -> dict[str, Any]:
    if name in FLAGS:
        return {"type": "boolean"}
    if name in FACTORS:
        return {"type": "number", "exclusiveMinimum": 0}
    if name == "inputs":
        return {"anyOf": [{"enum": list(allowed_names(name))}, {"type": "string", "pattern": r"\.safetensors$"}]}
    if name in ("dtype", "scaling", "mask_alignment", "kv_dtype"):
        return {"enum": [*allowed_names(name), *([None] if name in OPTIONAL else [])]}
    least = 0 if name == "seed" else 1
    size = [{"type": "integer", "minimum": least}, {"type": "string", "pattern": f"^{SIZE.pattern}$"}]
    return {"anyOf": [*size, {"type": "null"}] if name in OPTIONAL else size}


def _field_schema(shape: Any, about: str, bound: bool = False) -> WithJsonSchema:
    """An object whose keys are case fields; `shape` makes the schema of a field's value from that of one value."""
    schema = {"type": "object", "description": about, "additionalProperties": False,
              "properties": {name: shape(_value_schema(name)) for name in NAMES}}  # fmt: skip
    if bound:
        rows = {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 2}}
        schema["patternProperties"] = {"^[a-z_]+( *, *[a-z_]+)+$": rows}
    return WithJsonSchema(schema)


def _one_or_more(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "array", "minItems": 1, "items": schema}]}


def _expression(_: dict[str, Any]) -> dict[str, Any]:
    return {"type": ["string", "integer"]}


def _is_floor(text: str) -> str:
    parse_floor(text)
    return text


Axes = Annotated[dict[str, Any], _field_schema(_one_or_more, "crossed; a comma binds fields", bound=True)]
Fields = Annotated[dict[str, Any], _field_schema(lambda schema: schema, "values where a group sets none")]
Match = Annotated[dict[str, Any], _field_schema(_one_or_more, "field: value, or list of values")]
Derive = Annotated[dict[str, Any], _field_schema(_expression, "numbers, axis names and + - * / only")]


class Exclude(StrictModel):
    """Cases of a group to leave out."""

    when: Match = Field(description="a case is left out when all of these match", min_length=1)
    reason: str = Field(min_length=1, description="why; it is shown wherever the cases would be")


class Group(StrictModel):
    """Cases that belong together: the product of its axes."""

    name: str = Field(pattern=NAME_PATTERN, description="unique in the suite")
    axes: Axes = Field(default={}, description="field: values; every combination becomes a case")
    derive: Derive = Field(default={}, description="field: expression over the axes that comes out whole")
    exclude: list[Exclude] = Field(default=[], description="combinations to leave out, with the reason")
    time: bool = Field(default=True, description="false: check only")
    timing: Timing = Field(default=Timing(), description="overrides the suite's timing for this group")
    checks: Checks = Field(default=Checks(), description="overrides the suite's checks for this group")


class SuiteModel(StrictModel):
    """A suite of attention cases."""

    name: str = Field(default="", pattern=NAME_PATTERN, description="default: the file's name")
    about: str = Field(default="", description="one line on what the suite is for")
    backends: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="default: all that are available on the machine"
    )
    emulated: bool = Field(
        default=False,
        description="our kernels join in the CPU emulation where there is no GPU and no list of backends",
    )
    emulation: Emulation = Field(default=Emulation())
    defaults: Fields = Field(default={}, description="values of case fields where a group sets none")
    groups: list[Group] = Field(min_length=1)
    timing: Timing = Field(default=Timing())
    checks: Checks = Field(default=Checks())
    only: Match = Field(default={}, description="keep only the cases that match all of these")
    at_least: Annotated[tuple[Annotated[str, AfterValidator(_is_floor)], ...], Field(strict=False)] = Field(
        default=(), description=f"what a gate demands of every run: {GRAMMAR}; NAME a backend or {GEMM}"
    )


# The model that stands under each key, to tell which keys are legal there.
_MODELS: Mapping[str, type[StrictModel]] = {
    "": SuiteModel,
    "groups": Group,
    "exclude": Exclude,
    "timing": Timing,
    "checks": Checks,
    "emulation": Emulation,
    "factors": Factors,
}
_WANTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number", "string_type": "text", "dict_type": "a mapping", "model_type": "a mapping",
    "list_type": "a list", "tuple_type": "a list", "string_too_short": "some text", "too_short": "at least one entry",
    "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}", "string_pattern_mismatch": "letters, digits, _ . - only",
}  # fmt: skip


def validate(source: Source) -> SuiteModel:
    """The checked model of a suite file. Raises SuiteError for the mistake that stands first in it."""
    try:
        model = SuiteModel.model_validate(source.value)
    except ValidationError as error:
        # What is missing may stand there misspelt, so that other mistakes come first; of those, the topmost.
        mistakes = error.errors(include_url=False)
        mistake = min(mistakes, key=lambda mistake: (mistake["type"] == "missing", source.line(mistake["loc"])))
        raise source.error(mistake["loc"], _explain(mistake, mistake["loc"])) from None
    _refuse_unknown_probes(model, source)
    return model


def _refuse_unknown_probes(model: SuiteModel, source: Source) -> None:
    places: list[tuple[Location, Checks]] = [(("checks",), model.checks)]
    places += [(("groups", index, "checks"), group.checks) for index, group in enumerate(model.groups)]
    named = [(place, name) for place, checks in places if checks.probes != ("all",) for name in checks.probes]
    if not named:
        return
    from attnbench.correctness.probes import PROBES

    for place, name in named:
        if name not in PROBES:
            known = suggest(name, (*PROBES, "all"))
            raise source.error((*place, "probes"), f'unknown probe "{name}" under "probes"{known}')


def _explain(mistake: Any, location: Location) -> str:
    name = str(location[-1]) if location else "suite"
    keys = [part for part in location if isinstance(part, str)]
    parent = keys[-2] if len(keys) > 1 else ""
    if mistake["type"] == "extra_forbidden":
        place = f'under "{parent}"' if parent else "at the top level"
        return f'unknown key "{name}" {place}{suggest(name, _MODELS[parent].model_fields)}'
    if mistake["type"] == "missing":
        return f'"{name}" is missing' + (f' under "{parent}"' if parent else " at the top level")
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    if isinstance(location[-1], int):
        name = f"{keys[-1]}[{name}]"
    limits = {
        key: f"{value:.12g}" if isinstance(value, float) else value for key, value in mistake.get("ctx", {}).items()
    }
    if mistake["type"] == "literal_error":
        limits["expected"] = limits["expected"].replace("'", "").replace(" or ", ", ")
    wanted = _WANTED.get(mistake["type"], mistake["msg"]).format(**limits)
    return f'"{name}" must be {wanted}, not {json.dumps(mistake["input"], default=str)[:60]}'


def merge(common: Any, own: Any) -> Any:
    """A suite's timing or checks with what a group sets of its own."""
    changes = own.model_dump(exclude_unset=True)
    for name, value in changes.items():
        if isinstance(value, dict):
            changes[name] = merge(getattr(common, name), getattr(own, name))
    return common.model_copy(update=changes)


def change_timing(timing: Timing, changes: Mapping[str, Any]) -> Timing:
    """Timing with some settings replaced from outside the file. Raises SuiteError."""
    try:
        changed = Timing.model_validate({**timing.model_dump(), **changes})
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        raise SuiteError(_explain(mistake, ("timing", *mistake["loc"]))) from None
    if changed.mistake():
        raise SuiteError(str(changed.mistake()))
    return changed


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the suite format."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "attnbench suite"}
    schema = SuiteModel.model_json_schema()
    _name_probes(schema["$defs"]["Checks"]["properties"]["probes"])
    return head | {key: value for key, value in schema.items() if key != "title"}
