"""From a group of a suite to its cases: axes crossed, values derived, combinations excluded, every mistake located.

The order of the cases is the order of the axes as written, the last one running fastest.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from attnbench.arithmetic import ArithmeticMistake
from attnbench.case import DEFAULTS, FIELDS, Case, CaseError
from attnbench.plan import Axis, Derived, Exclusion, Plan, targets
from attnbench.suite_yaml import Location, Source

Values = dict[str, Any]

# More than anyone can run; beyond it a suite is a slip (an axis too many) that would only fill the memory.
MAX_CASES = 1_000_000


def expand(plan: Plan, source: Source) -> tuple[tuple[Case, ...], tuple[tuple[Case, str], ...]]:
    """The group's cases, and those excluded with the reason. Raises SuiteError at the line of the first mistake.

    A combination that is excluded need not be a case that can exist; such a one is in neither list.
    """
    total = math.prod(len(axis.rows) for axis in plan.axes)
    if total > MAX_CASES:
        raise source.error(plan.location, f'group "{plan.name}" expands to {total:,} cases; the most is {MAX_CASES:,}')
    derive = _deriver(plan, source)
    derived_fields = {target for derived in plan.derive for target in targets(derived.field)}
    early = [item for item in plan.exclude if not derived_fields & {t for name, _ in item.when for t in targets(name)}]
    late = [item for item in plan.exclude if item not in early]
    cases, excluded, used = [], [], set()
    for values in _combinations(plan.axes):
        exclusion = _matching(early, values) if early else None
        if exclusion is None:
            derive(values)
            exclusion = _matching(late, values) if late else None
        if exclusion is None:
            cases.append(_make(values, plan, source))
            continue
        used.add(exclusion.location)
        case = _excluded_case(values, derive)
        if case is not None:
            excluded.append((case, exclusion.reason))
    for exclusion in plan.exclude:
        if exclusion.location not in used:
            raise source.error(exclusion.location, f'this "exclude" matches nothing in group "{plan.name}" that is not '
                               "excluded already; correct its values or remove it")  # fmt: skip
    return tuple(cases), tuple(excluded)


def _combinations(axes: tuple[Axis, ...]) -> Iterator[Values]:
    fixed: Values = {}
    for axis in axes:
        if len(axis.rows) == 1:
            fixed.update(axis.fragments()[0])
    moving = [axis.fragments() for axis in axes if len(axis.rows) != 1]
    for combination in itertools.product(*moving):
        values = fixed.copy()
        for fragment in combination:
            values.update(fragment)
        yield values


def _deriver(plan: Plan, source: Source) -> Callable[[Values], None]:
    """A function that adds the derived fields in place. Results are remembered: few inputs recur in many cases."""
    steps = [(targets(item.field), _remembering(item, plan, source)) for item in plan.derive]

    def derive(values: Values) -> None:
        # No expression uses a derived field, so each may be set before the next is computed.
        for names, evaluate in steps:
            result = evaluate(values)
            for name in names:
                values[name] = result

    return derive


def _remembering(item: Derived, plan: Plan, source: Source) -> Callable[[Values], int]:
    expression, known = item.expression, {}
    held = {name: targets(name)[0] for name in expression.names}  # a `seqlen` axis holds the same value in both
    inputs = itemgetter(*held.values()) if held else lambda values: ()

    def evaluate(values: Values) -> int:
        key = inputs(values)
        if key not in known:
            try:
                known[key] = expression.whole({name: values[target] for name, target in held.items()})
            except ArithmeticMistake as mistake:
                message = f'derived "{item.field}" of group "{plan.name}": {mistake}'
                raise source.error(item.location, message) from None
        return known[key]

    return evaluate


def _matching(exclusions: list[Exclusion], values: Values) -> Exclusion | None:
    for exclusion in exclusions:
        if all(_effective(values, name) in allowed for name, allowed in exclusion.when):
            return exclusion
    return None


def _effective(values: Values, name: str) -> Any:
    """The value that a case made of these would have in a field; None where that is not settled."""
    if name == "seqlen":
        seqlen_q = values.get("seqlen_q")
        return seqlen_q if seqlen_q == values.get("seqlen_k") else None
    value = values.get(name)
    if value is not None:
        return value
    if name in ("num_heads_kv", "head_dim_v"):
        return values.get("num_heads" if name == "num_heads_kv" else "head_dim")
    return DEFAULTS.get(name)


def _make(values: Values, plan: Plan, source: Source) -> Case:
    try:
        return Case.make(**values)
    except CaseError as error:
        message = f'{error} (group "{plan.name}")'
        raise source.error(_blame(str(error), plan), message) from None


def _excluded_case(values: Values, derive: Callable[[Values], None]) -> Case | None:
    try:
        derive(values)
        return Case.make(**values)
    except ValueError:  # a combination that cannot exist may well be excluded for just that
        return None


def _blame(message: str, plan: Plan) -> Location:
    """Where the first field that a message names is set in the group; the group where none is."""
    places: Mapping[str, Location] = {
        **{target: axis.location for axis in plan.axes for name in axis.fields for target in targets(name)},
        **{target: item.location for item in plan.derive for target in targets(item.field)},
    }
    for word in re.findall(r"\w+", message):
        if word in FIELDS and word in places:
            return places[word]
    return plan.location
