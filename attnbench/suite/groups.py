"""A group of a suite as a plan: axes, derived fields and exclusions, checked."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnbench.errors import suggest
from attnbench.suite.source import Location, Source
from attnbench.suite.values import SIZES, ArithmeticMistake, Expression, check_name, check_value, parse_expression

if TYPE_CHECKING:
    from attnbench.suite.schema import Exclude, Group


@dataclass(frozen=True, slots=True)
class Axis:
    """Fields that change together, and their values: one row each, as wide as `fields`. `seqlen` may stand for both."""

    fields: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    location: Location = field(default=(), compare=False)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for name in self.fields for target in targets(name))


@dataclass(frozen=True, slots=True)
class Derived:
    field: str
    expression: Expression
    location: Location = dataclasses.field(default=(), compare=False)


Match = tuple[tuple[str, tuple[Any, ...]], ...]  # field -> values, any of which will do


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Leaves out the cases in which every field has one of the listed values."""

    when: Match
    reason: str
    location: Location = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A group, ready to expand."""

    name: str
    axes: tuple[Axis, ...]
    derive: tuple[Derived, ...]
    exclude: tuple[Exclusion, ...]
    location: Location = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a suite file."""
        body: dict[str, Any] = {"name": self.name, "axes": {}}
        for axis in self.axes:
            rows = [row[0] if len(axis.fields) == 1 else list(row) for row in axis.rows]
            body["axes"][", ".join(axis.fields)] = rows
        if self.derive:
            body["derive"] = {item.field: item.expression.text for item in self.derive}
        if self.exclude:
            body["exclude"] = [{"when": match_to_dict(item.when), "reason": item.reason} for item in self.exclude]
        return body


def targets(name: str) -> tuple[str, ...]:
    """The case fields that a name in a suite sets."""
    return ("seqlen_q", "seqlen_k") if name == "seqlen" else (name,)


def build_plan(group: Group, defaults: Mapping[str, Any], source: Source, location: Location) -> Plan:
    """The plan of a validated group. Raises SuiteError for names and values that cannot be."""
    axes = [_axis(key, value, source, (*location, "axes", key)) for key, value in group.axes.items()]
    _refuse_twice(axes, source)
    taken = {target for axis in axes for target in axis.targets}
    for name in group.derive:
        _check_derived(name, taken, source, (*location, "derive", name))
        taken.update(targets(name))
    axes = [*_default_axes(defaults, taken, source), *axes]
    derive = [_derived(name, text, axes, source, (*location, "derive", name)) for name, text in group.derive.items()]
    exclude = [_exclusion(item, source, (*location, "exclude", index)) for index, item in enumerate(group.exclude)]
    return Plan(group.name, tuple(axes), tuple(derive), tuple(exclude), location)


def build_match(mapping: Mapping[str, Any], source: Source, location: Location) -> Match:
    """`field: value or list of values`, checked."""
    match = []
    for name, values in mapping.items():
        place = (*location, name)
        _check(check_name, name, f' under "{location[-1]}"', source, place)
        match.append((name, tuple(_values(name, values, source, place))))
    return tuple(match)


def match_to_dict(match: Match) -> dict[str, Any]:
    return {name: list(values) for name, values in match}


def _axis(key: str, value: Any, source: Source, location: Location) -> Axis:
    names = tuple(name.strip() for name in key.split(","))
    for name in names:
        _check(check_name, name, ' under "axes"', source, location)
    if len(names) == 1:
        rows = [(item,) for item in _values(names[0], value, source, location)]
    else:
        rows = list(_bound_rows(names, value, source, location))
    if not rows:
        raise source.error(location, f'"{key}" under "axes" has no values, so the group expands to nothing; give one')
    if len(set(rows)) < len(rows):
        repeated, _ = collections.Counter(rows).most_common(1)[0]
        shown = ", ".join(map(str, repeated))
        raise source.error(location, f'"{key}" under "axes" lists {shown} twice; remove one')
    return Axis(names, tuple(rows), location)


def _values(name: str, value: Any, source: Source, location: Location) -> Iterator[Any]:
    if not isinstance(value, list):
        yield _check(check_value, name, value, source, location)
        return
    for index, item in enumerate(value):
        yield _check(check_value, name, item, source, (*location, index))


def _bound_rows(names: tuple[str, ...], value: Any, source: Source, location: Location) -> Iterator[tuple[Any, ...]]:
    shape = f'"{", ".join(names)}" under "axes" needs a list of lists of {len(names)} values'
    if not isinstance(value, list):
        raise source.error(location, f"{shape}, not {value!r}")
    for index, row in enumerate(value):
        place = (*location, index)
        if not isinstance(row, list) or len(row) != len(names):
            raise source.error(place, f"{shape}, not {row!r}")
        yield tuple(_check(check_value, name, item, source, place) for name, item in zip(names, row))


def _refuse_twice(axes: Iterable[Axis], source: Source) -> None:
    seen: dict[str, str] = {}
    for axis in axes:
        for name in axis.fields:
            for target in targets(name):
                if target in seen:
                    clash = f'"{name}" and "{seen[target]}"' if seen[target] != name else f'"{name}" twice'
                    raise source.error(axis.location, f'"axes" has {clash}: both set {target}; keep one')
                seen[target] = name


def _default_axes(defaults: Mapping[str, Any], taken: set[str], source: Source) -> Iterator[Axis]:
    """The suite's defaults that the group does not set itself, as axes of one value."""
    for name, value in defaults.items():
        location = ("defaults", name)
        free = [target for target in targets(name) if target not in taken]
        if len(free) == len(targets(name)):
            free = [name]
        for target in free:
            yield Axis((target,), ((value,),), location)


def build_defaults(defaults: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The suite's defaults, checked."""
    checked: dict[str, Any] = {}
    for name, value in defaults.items():
        location = ("defaults", name)
        _check(check_name, name, ' under "defaults"', source, location)
        if isinstance(value, list):
            message = f'"{name}" under "defaults" takes one value, not a list; lists go under "axes"'
            raise source.error(location, message)
        checked[name] = _check(check_value, name, value, source, location)
    for name in ("seqlen_q", "seqlen_k"):
        if "seqlen" in checked and name in checked:
            raise source.error(("defaults", name), f'"defaults" has "{name}" and "seqlen": both set {name}; keep one')
    return checked


def _check_derived(name: str, taken: set[str], source: Source, location: Location) -> None:
    _check(check_name, name, ' under "derive"', source, location)
    if name != "seqlen" and name not in SIZES:
        raise source.error(location, f'"{name}" cannot be derived, only whole numbers can: {", ".join(SIZES)}')
    for target in targets(name):
        if target in taken:
            raise source.error(location, f'"{name}" under "derive" is set in this group already; keep one')


def _derived(name: str, text: Any, axes: list[Axis], source: Source, location: Location) -> Derived:
    if type(text) not in (str, int):
        raise source.error(location, f'"{name}" under "derive" must be an expression, not {text!r}')
    try:
        expression = parse_expression(str(text))
    except ArithmeticMistake as mistake:
        raise source.error(location, f'"{name}" under "derive": {mistake}') from None
    known = {alias: axis for axis in axes for alias in (*axis.fields, *axis.targets)}
    for used in expression.names:
        if used not in known:
            message = f'"{name}" under "derive" uses "{used}", which no axis sets{suggest(used, known)}'
            raise source.error(location, message)
        _refuse_non_numbers(name, used, known[used], source, location)
    return Derived(name, expression, location)


def _refuse_non_numbers(name: str, used: str, axis: Axis, source: Source, location: Location) -> None:
    column = next(index for index, field_name in enumerate(axis.fields) if used in (field_name, *targets(field_name)))
    odd = [row[column] for row in axis.rows if type(row[column]) is not int]
    if odd:
        raise source.error(location, f'"{name}" under "derive" uses "{used}", which is {odd[0]!r}: not a whole number')


def _exclusion(item: Exclude, source: Source, location: Location) -> Exclusion:
    return Exclusion(build_match(item.when, source, (*location, "when")), item.reason, location)


def _check(check: Any, name: str, argument: Any, source: Source, location: Location) -> Any:
    """The result of a check whose ValueError says what is wrong, but not where."""
    try:
        return check(name, argument)
    except ValueError as error:
        raise source.error(location, str(error)) from None
