"""From a group of a suite to its cases: axes crossed, values derived, combinations excluded, every mistake located.

The order of the cases is the order of the axes as written, the last one running fastest. Cases are made when somebody
goes through them and are kept by nobody here: a suite of a million takes no more memory than one of ten.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from attnbench.case import DEFAULTS, FIELDS, INTERDEPENDENT, Case, CaseError, key_of
from attnbench.suite.groups import Derived, Exclusion, Plan, targets
from attnbench.suite.source import Location, Source
from attnbench.suite.values import ArithmeticMistake

# More than anyone can run; beyond it a suite is a slip (an axis too many) that would only fill the memory.
MAX_CASES = 1_000_000
# An exclusion that lists more combinations of values than this is held against every case, others are looked up.
MAX_LISTED = 1000
# Where a case takes a value that no axis sets.
FOLLOWS = {"num_heads_kv": "num_heads", "head_dim_v": "head_dim"}

Row = tuple[Any, ...]  # values by `Combinations._place`


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases of a plan that has been checked, made anew each time that somebody goes through them."""

    plan: Plan
    count: int

    def __iter__(self) -> Iterator[Case]:
        return (Case(*values) for values in Combinations(self.plan).values())

    def __len__(self) -> int:
        return self.count

    def each_key(self) -> Iterator[str]:
        """Their keys: those of many cases in a fraction of the time that the cases take."""
        return (key_of(*values) for values in Combinations(self.plan).values())

    def excluded(self) -> Iterator[tuple[Case, str]]:
        """Those left out, with the reason; a combination that cannot be a case is none."""
        combinations = Combinations(self.plan)
        for row, exclusion in combinations:
            if exclusion is not None:
                case = combinations.excluded_case(row)
                if case is not None:
                    yield case, exclusion.reason

    def may_repeat(self) -> bool:
        """Whether two combinations can be one case: where a null stands beside the value that follows without it."""
        return any(None in row for axis in self.plan.axes if len(axis.rows) > 1 for row in axis.rows)


def expand(plan: Plan, source: Source) -> Cases:
    """The group's cases, each of them checked. Raises SuiteError at the line of the first mistake."""
    total = math.prod(len(axis.rows) for axis in plan.axes)
    if total > MAX_CASES:
        raise source.error(plan.location, f'group "{plan.name}" expands to {total:,} cases; the most is {MAX_CASES:,}')
    telling, alike = _telling(plan)
    combinations, count, used = Combinations(telling), 0, set()
    judged, right = combinations.judged, set()
    try:
        for row, exclusion in combinations:
            if exclusion is not None:
                used.add(exclusion.location)
                continue
            count += 1
            values = judged(row)
            if values not in right:
                combinations.check(row)
                right.add(values)
    except DeriveMistake as mistake:
        message = f'derived "{mistake.item.field}" of group "{plan.name}": {mistake}'
        raise source.error(mistake.item.location, message) from None
    except CaseError as error:
        raise source.error(_blame(str(error), plan), f'{error} (group "{plan.name}")') from None
    for exclusion in plan.exclude:
        if exclusion.location not in used:
            raise source.error(exclusion.location, f'this "exclude" matches nothing in group "{plan.name}" that is not '
                               "excluded already; correct its values or remove it")  # fmt: skip
    return Cases(plan, count * alike)


def _telling(plan: Plan) -> tuple[Plan, int]:
    """The plan without what tells nothing, and how many of its combinations stand behind each that is left.

    An axis of values that are each right by themselves, which no expression and no exclusion looks at, keeps its first.
    """
    names = {*INTERDEPENDENT, *(name for item in plan.derive for name in item.expression.names),
             *(name for item in plan.exclude for name, _ in item.when)}  # fmt: skip
    looked_at = {target for name in names for target in targets(name)}
    quiet = [axis for axis in plan.axes if not looked_at & set(axis.targets)]
    axes = tuple(replace(axis, rows=axis.rows[:1]) if axis in quiet else axis for axis in plan.axes)
    return replace(plan, axes=axes), math.prod(len(axis.rows) for axis in quiet)


class DeriveMistake(ArithmeticMistake):
    """A derived field that does not come out for some combination."""

    def __init__(self, item: Derived, mistake: ArithmeticMistake):
        super().__init__(str(mistake))
        self.item = item


class Combinations:
    """Goes through the rows of a plan, each with the exclusion that it falls under, or None.

    A row holds what axes and defaults set, then what is derived; one excluded ahead of that lacks the latter. `_place`
    says where in a row a case field's value is.
    """

    def __init__(self, plan: Plan):
        fixed: dict[str, Any] = {name: DEFAULTS.get(name) for name in FIELDS}
        for axis in plan.axes:
            if len(axis.rows) == 1:
                fixed.update(
                    (target, value) for name, value in zip(axis.fields, axis.rows[0]) for target in targets(name)
                )
        self._fixed = tuple(fixed.values())
        self._moving = [axis for axis in plan.axes if len(axis.rows) > 1]
        further = [name for axis in self._moving for name in axis.fields]
        self._given = len(fixed) + len(further)
        further += [item.field for item in plan.derive]
        self._place = {name: place for place, name in enumerate(fixed)}
        self._place.update((target, len(fixed) + n) for n, name in enumerate(further) for target in targets(name))
        self._steps = [_remembering(item, self._place) for item in plan.derive]
        self._open = self._left_open()
        self._pick = itemgetter(*(self._place[name] for name in FIELDS))
        kv_dtype = self._place["kv_dtype"]
        self._names_kv_dtype = kv_dtype >= len(self._fixed) or self._fixed[kv_dtype] is not None
        self._early, self._late = self._excluders(plan.exclude)
        # What the validity of a row's case hangs on: values that are legal only together, and what was just derived.
        derived = [target for item in plan.derive for target in targets(item.field)]
        self.judged = itemgetter(*(self._place[name] for name in dict.fromkeys((*INTERDEPENDENT, *derived))))

    def _left_open(self) -> list[str]:
        """Fields that follow from another one in some rows, or in all."""
        columns = {name: axis for axis in self._moving for name in axis.fields}
        return [
            name
            for name in FOLLOWS
            if (self._place[name] < len(self._fixed) and self._fixed[self._place[name]] is None)
            or (name in columns and any(None in row for row in columns[name].rows))
        ]

    def __iter__(self) -> Iterator[tuple[Row, Exclusion | None]]:
        early, late, steps = self._early, self._late, self._steps
        for given in self._rows():
            row = given
            exclusion = early(row) if early else None
            if exclusion is None:
                for derive in steps:
                    row += (derive(row),)
                exclusion = late(row) if late else None
            yield row, exclusion

    def _rows(self) -> Iterator[Row]:
        """What is given, the last axis running fastest."""
        if not self._moving:
            yield self._fixed
            return
        last, chain, fixed = self._moving[-1].rows, itertools.chain.from_iterable, self._fixed
        for outer in itertools.product(*(axis.rows for axis in self._moving[:-1])):
            begin = (*fixed, *chain(outer))
            for end in last:
                yield begin + end

    def values(self) -> Iterator[Row]:
        """The fields of every case that is left, in the order of `FIELDS`. Nothing is checked."""
        rows = (row for row, exclusion in self if exclusion is None)
        picked = map(self._filled, rows) if self._open else map(self._pick, rows)
        return map(_plain, picked) if self._names_kv_dtype else picked

    def _filled(self, row: Row) -> Row:
        values = list(self._pick(row))
        for name in self._open:
            if values[_INDEX[name]] is None:
                values[_INDEX[name]] = values[_INDEX[FOLLOWS[name]]]
        return tuple(values)

    def check(self, row: Row) -> Case:
        """Raises CaseError where the row's case cannot exist."""
        return Case.make(**dict(zip(FIELDS, self._pick(row))))

    def excluded_case(self, row: Row) -> Case | None:
        """None where the combination cannot be a case: it may well be excluded for just that."""
        try:
            if len(row) == self._given:
                for derive in self._steps:
                    row += (derive(row),)
            return self.check(row)
        except ValueError:
            return None

    def _excluders(self, exclusions: Iterable[Exclusion]) -> tuple[Excluder | None, Excluder | None]:
        """Those that can be told ahead of what is derived, and the others; None for none."""
        early: list[tuple[int, Exclusion]] = []
        late: list[tuple[int, Exclusion]] = []
        for number, item in enumerate(exclusions):
            names = [name for given, _ in item.when for name in targets(given)]
            places = [self._place[other] for name in names for other in (name, FOLLOWS.get(name, name))]
            (early if max(places) < self._given else late).append((number, item))
        return (Excluder(early, self._effective) if early else None), (
            Excluder(late, self._effective) if late else None
        )

    def _effective(self, name: str) -> Callable[[Row], Any]:
        """What gives the value that a row's case has in a field; for `seqlen` None where the lengths differ."""
        if name == "seqlen":
            queries, keys = self._place["seqlen_q"], self._place["seqlen_k"]
            return lambda row: row[queries] if row[queries] == row[keys] else None
        place = self._place[name]
        if name in self._open:
            other = self._place[FOLLOWS[name]]
            return lambda row: row[other] if row[place] is None else row[place]
        return itemgetter(place)


_INDEX = {name: index for index, name in enumerate(FIELDS)}


class Excluder:
    """The first exclusion that a row falls under, looked up by the row's values instead of tried one by one."""

    def __init__(self, numbered: Iterable[tuple[int, Exclusion]], getter: Callable[[str], Callable[[Row], Any]]):
        self._by_names: dict[tuple[str, ...], dict[Row, tuple[int, Exclusion]]] = {}
        self._wide: list[tuple[int, Exclusion]] = []
        for number, exclusion in numbered:
            names, lists = zip(*sorted(exclusion.when, key=itemgetter(0)))
            if math.prod(map(len, lists)) > MAX_LISTED:
                self._wide.append((number, exclusion))
                continue
            known = self._by_names.setdefault(names, {})
            for values in itertools.product(*lists):
                known.setdefault(values, (number, exclusion))
        self._getters = {names: [getter(name) for name in names] for names in self._by_names}
        self._tests = [
            (number, exclusion, [(getter(name), frozenset(values)) for name, values in exclusion.when])
            for number, exclusion in self._wide
        ]

    def __call__(self, row: Row) -> Exclusion | None:
        found = []
        for names, known in self._by_names.items():
            match = known.get(tuple(get(row) for get in self._getters[names]))
            if match is not None:
                found.append(match)
        for number, exclusion, tests in self._tests:
            if all(get(row) in values for get, values in tests):
                found.append((number, exclusion))
                break
        return min(found, key=itemgetter(0))[1] if found else None


def _plain(values: Row) -> Row:
    """With null for a kv_dtype that is that of q, as `Case.make` has it."""
    place = _INDEX["kv_dtype"]
    return values if values[place] != values[_INDEX["dtype"]] else (*values[:place], None, *values[place + 1 :])


def _remembering(item: Derived, place: Mapping[str, int]) -> Callable[[Row], int]:
    """The derived value of a row. Results are remembered: few inputs recur in many cases."""
    known: dict[Any, int] = {}
    expression = item.expression
    held = {name: place[targets(name)[0]] for name in expression.names}  # a `seqlen` axis holds one value in both
    inputs = itemgetter(*held.values()) if held else lambda row: ()

    def evaluate(row: Row) -> int:
        key = inputs(row)
        if key not in known:
            try:
                known[key] = expression.whole({name: row[place] for name, place in held.items()})
            except ArithmeticMistake as mistake:
                raise DeriveMistake(item, mistake) from None
        return known[key]

    return evaluate


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
