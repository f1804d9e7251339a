"""`--axis field=value,...`: axes that the command line sets, in a suite's groups or in place of a suite.

In each group the values replace whatever gave the field: an axis, a field of a bound axis (the others of it keep their
values, each row once), a `derive`, a default. What else the group says stays. With the new values some combinations
may be no case, or one that an earlier group has; they are left out, and told. A value that is in no case is a mistake.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnbench.case import DEFAULTS as CASE_DEFAULTS
from attnbench.case import FIELDS, FP8_DTYPES, FP8_FIELDS, REQUIRED, Case
from attnbench.suite.expansion import MAX_CASES, expand
from attnbench.suite.groups import Axis, Derived, Exclusion, Plan, targets
from attnbench.suite.source import Source, SuiteError
from attnbench.suite.values import check_name, parse_value

# What a suite that consists of --axis alone holds where none of them sets it.
DEFAULTS = {"batch": 1, "num_heads": 4, "head_dim": 128, "seqlen": "1k", "dtype": "bf16"}
NAME = "axes"
_NOWHERE = Source("", {})
# One row of each axis, and what excludes that combination.
Kept = list[tuple[tuple[tuple[Any, ...], ...], Exclusion | None]]


@dataclass(frozen=True, slots=True)
class Overridden:
    """A group's plan with the axes of the command line; None where no case of it is left. left_out: why some are."""

    plan: Plan | None
    left_out: tuple[str, ...]


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """`--axis head_dim=64,128` and so on, one axis a field; the same field twice has the values of both.

    Raises SuiteError for an unknown field, a value that it cannot have or has twice, and two that set one field.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, listed = _parse_axis(text)
        values.setdefault(name, []).extend(listed)
    for name, listed in values.items():
        for index, value in enumerate(listed):
            if value in listed[:index]:
                raise SuiteError(f"--axis {name}: {shown(value)} is there twice; give it once")
    for name in ("seqlen_q", "seqlen_k"):
        if "seqlen" in values and name in values:
            raise SuiteError(f"--axis seqlen and --axis {name}: both set {name}; leave one out")
    return tuple(Axis((name,), tuple((value,) for value in listed)) for name, listed in values.items())


def _parse_axis(text: str) -> tuple[str, list[Any]]:
    name, equals, listed = (part.strip() for part in text.partition("="))
    if "," in name:
        raise SuiteError(f"--axis {text}: one field each; fields that change together are bound in a suite file")
    if not equals or not all(map(str.strip, listed.split(","))):
        raise SuiteError(f'--axis {text}: write field=value[,value], such as "head_dim=64,128" or "causal=true"')
    try:
        check_name(name, "")
        return name, [parse_value(name, value.strip()) for value in listed.split(",")]
    except ValueError as error:
        raise SuiteError(f"--axis {text}: {error}") from None


def shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def axis_text(axis: Axis) -> str:
    """`--axis head_dim=64,128`, as it would be asked for."""
    return f"--axis {axis.fields[0]}={','.join(shown(row[0]) for row in axis.rows)}"


def suite_of_axes(given: Sequence[Axis]) -> Source:
    """A suite of one group without axes, into which those of the command line go; DEFAULTS hold besides."""
    about = "from the command line: " + " ".join(map(axis_text, given))
    return Source(NAME, {"name": NAME, "about": about, "defaults": dict(DEFAULTS), "groups": [{"name": "all"}]})


def override(plans: Sequence[Plan], given: Sequence[Axis]) -> tuple[Overridden, ...]:
    """The groups of a suite with these axes. Raises SuiteError for a value that no case of any of them has."""
    seen: dict[str, str] = {}
    used: set[tuple[str, Any]] = set()
    reasons: dict[tuple[str, Any], str] = {}
    changed = tuple(_override_group(_replaced(plan, given), given, seen, used, reasons) for plan in plans)
    for axis in given:
        for (value,) in axis.rows:
            if (axis.fields[0], value) not in used:
                reason = reasons.get((axis.fields[0], value), "every case with it is excluded")
                raise SuiteError(
                    f"--axis {axis.fields[0]}={shown(value)}: no case can have it: {reason}{_hint(reason)}"
                )
    return changed


def _hint(reason: str) -> str:
    """The way out that a reason leaves open."""
    if any(reason.startswith(f"{name} applies to") for name in FP8_FIELDS):
        return f"; add --axis dtype={FP8_DTYPES[0]}, or leave it out"
    return "; leave it out, or set with --axis what it depends on"


def _replaced(plan: Plan, given: Sequence[Axis]) -> Plan:
    """The plan with the given axes in the places of those that they replace, new ones at the end."""
    axes, derive = plan.axes, plan.derive
    for new in given:
        axes = tuple(_placed(axes, new))
        derive = tuple(left for item in derive for left in _without_derived(item, new))
    return replace(plan, axes=axes, derive=derive)


def _placed(axes: Sequence[Axis], new: Axis) -> Iterator[Axis]:
    pending = True
    for axis in axes:
        left = _without(axis, new.targets)
        if left is axis:
            yield axis
            continue
        if left is not None:
            yield left
        if pending:
            yield new
            pending = False
    if pending:
        yield new


def _without(axis: Axis, taken: Sequence[str]) -> Axis | None:
    """The axis without what sets these fields, each row once; itself where it sets none, None where nothing is left.

    A `seqlen` of which one length is taken sets the other.
    """
    columns = [
        (index, name if len(left) == len(targets(name)) else left[0])
        for index, name in enumerate(axis.fields)
        if (left := [target for target in targets(name) if target not in taken])
    ]
    fields = tuple(name for _, name in columns)
    if fields == axis.fields:
        return axis
    rows = dict.fromkeys(tuple(row[index] for index, _ in columns) for row in axis.rows)
    return Axis(fields, tuple(rows), axis.location) if columns else None


def _without_derived(item: Derived, new: Axis) -> Iterator[Derived]:
    left = [target for target in targets(item.field) if target not in new.targets]
    if len(left) == len(targets(item.field)):
        yield item
    else:
        yield from (replace(item, field=target) for target in left)


def _override_group(
    plan: Plan,
    given: Sequence[Axis],
    seen: dict[str, str],
    used: set[tuple[str, Any]],
    reasons: dict[tuple[str, Any], str],
) -> Overridden:
    """seen: case keys and the groups that have them; used, reasons: given values that are in a case, why others not."""
    _refuse_names_that_are_gone(plan)
    if math.prod(len(axis.rows) for axis in plan.axes) > MAX_CASES:
        raise SuiteError(f'--axis: group "{plan.name}" expands to more than {MAX_CASES:,} cases; give fewer values')
    names = {axis.fields[0] for axis in given}
    kept: Kept = []
    left_out: Counter[str] = Counter()
    for rows in itertools.product(*(axis.rows for axis in plan.axes)):
        values = {(axis.fields[0], row[0]) for axis, row in zip(plan.axes, rows) if axis.fields[0] in names}
        case, why = _case_of(plan, rows)
        if isinstance(case, Case):
            key = case.key
            used |= values
            if key in seen:
                case, why = None, f"group {seen[key]} has it already"
            seen.setdefault(key, plan.name)
        for value in values:
            reasons.setdefault(value, why)
        if case is None:
            left_out[why] += 1
        else:
            kept.append((rows, case if isinstance(case, Exclusion) else None))
    return Overridden(_plan_of(plan, kept, bool(left_out)), tuple(_told(plan.name, left_out)))


def _told(name: str, left_out: Mapping[str, int]) -> Iterator[str]:
    for reason, count in left_out.items():
        yield f"group {name}: {count} {'combination' if count == 1 else 'combinations'} left out: {reason}"


def _case_of(plan: Plan, rows: Sequence[tuple[Any, ...]]) -> tuple[Case | Exclusion | None, str]:
    """The case of one row of each axis, or what excludes it; None where it cannot be. And why there is none."""
    single = replace(plan, axes=tuple(replace(axis, rows=(row,)) for axis, row in zip(plan.axes, rows)), exclude=())
    for item in plan.exclude:
        try:
            expand(replace(single, exclude=(item,)), _NOWHERE)
        except SuiteError:
            continue  # it matches nothing here
        return item, f"excluded: {item.reason}"
    try:
        return next(iter(expand(single, _NOWHERE))), ""
    except SuiteError as error:
        reason = str(error).partition(": ")[2]
        return None, reason.removesuffix(f' (group "{plan.name}")').replace(f' of group "{plan.name}"', "")


def _plan_of(plan: Plan, kept: Kept, some_left_out: bool) -> Plan | None:
    """The plan with the exclusions that still match; where some combinations are left out, one bound axis has the rest.

    None where no case is left.
    """
    if all(exclusion is not None for _, exclusion in kept):
        return None
    matching = {exclusion for _, exclusion in kept}
    plan = replace(plan, exclude=tuple(item for item in plan.exclude if item in matching))
    if not some_left_out:
        return plan
    moving = [index for index, axis in enumerate(plan.axes) if len(axis.rows) > 1]
    fields = tuple(name for index in moving for name in plan.axes[index].fields)
    rows = tuple(tuple(value for index in moving for value in combination[index]) for combination, _ in kept)
    fixed = tuple(axis for axis in plan.axes if len(axis.rows) == 1)
    return replace(plan, axes=(*fixed, Axis(fields, rows, plan.location)))


def _refuse_names_that_are_gone(plan: Plan) -> None:
    """Raises SuiteError where an expression uses `seqlen` of which --axis has set one length."""
    known = {name for axis in plan.axes for name in (*axis.fields, *axis.targets)}
    for item in plan.derive:
        for name in item.expression.names:
            if name not in known:
                raise SuiteError(
                    f'--axis: group "{plan.name}" derives {item.field} from {name} ({item.expression.text}), which is '
                    f"no axis any more; set {item.field} with --axis too"
                )


def axis_words(case: Case) -> list[str]:
    """The case as options of `attnbench run`, without a suite: what must be said, and what is not at its default."""
    fields = [name for name in FIELDS if name in REQUIRED or _is_set(case, name)]
    return [word for name in fields for word in ("--axis", f"{name}={shown(getattr(case, name))}")]


def _is_set(case: Case, name: str) -> bool:
    counterpart = {"num_heads_kv": case.num_heads, "head_dim_v": case.head_dim}
    return bool(getattr(case, name) != counterpart.get(name, CASE_DEFAULTS.get(name)))
