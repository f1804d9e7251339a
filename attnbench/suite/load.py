"""A YAML file becomes a suite, every mistake in it one line with file and line number.

Reading half: no torch. pydantic is imported when a suite is loaded, not before.
"""

from __future__ import annotations

import array
import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import suggest
from attnbench.paths import shipped_folder
from attnbench.suite.axes import override, suite_of_axes
from attnbench.suite.expansion import expand
from attnbench.suite.generate import drawn, source_of
from attnbench.suite.groups import Axis, Match, Plan, build_defaults, build_match, build_plan, targets
from attnbench.suite.source import Source, SuiteError, parse_source, read_source
from attnbench.suite.suite import GROUP, ExpandedGroup, Suite, field_text, matcher, merge_only, only_text

if TYPE_CHECKING:
    from attnbench.settings import Timing
    from attnbench.suite.schema import SuiteModel


_SHIPPED = shipped_folder("suites")


def load_suite(path: str | Path, axes: Sequence[Axis] = (), only: Match = ()) -> Suite:
    """The suite in a file; a bare name that is no file means the shipped suite of that name. Raises SuiteError.

    axes: of the command line, in place of the groups' own and of what the file keeps of these fields; with them, groups
    that `only` leaves out are not looked at.
    """
    return _build(read_source(_find(path)), Path(path), axes, only)


def axes_suite(axes: Sequence[Axis]) -> Suite:
    """The suite that axes of the command line make without a file. Raises SuiteError."""
    source = suite_of_axes(axes)
    return _build(source, Path(source.name), axes)


def with_generated(suite: Suite | None, number: int, seed: int, only: Match = ()) -> Suite:
    """The suite with a further group, `generated`, of cases drawn by a seed; without a suite these alone.

    They are checked and not timed. `only`: of the command line; it and the suite's own hold of what is drawn too.
    Raises SuiteError where nothing can be drawn, and where the suite has a group of that name.
    """
    kept = tuple(item for item in merge_only(suite.only if suite else (), only) if item[0] != GROUP)
    taken = {key for group in suite.groups for key in group.cases.each_key()} if suite else ()
    source = source_of(drawn(number, seed, matcher(kept), taken), seed)
    made = _build(source, Path(source.name))
    if suite is None:
        return made
    if any(group.name == made.name for group in suite.groups):
        raise SuiteError(f'--generate: suite "{suite.name}" has a group "{made.name}" already; rename it')
    return dataclasses.replace(suite, groups=(*suite.groups, *made.groups))


def parse_suite(text: str, name: str) -> Suite:
    """The suite in a text, such as the one stored with a run; `name` stands for the file in messages."""
    return _build(parse_source(text, name), Path(name))


def shipped_suites() -> tuple[tuple[str, str, Path], ...]:
    """(name, about, path) of every suite that comes with attnbench. Fast: nothing is validated or expanded."""
    sources = [(path, read_source(path).value) for path in sorted(_SHIPPED.glob("*.yaml"))]
    return tuple((str(value.get("name", path.stem)), str(value.get("about", "")), path) for path, value in sources)


def with_overrides(
    suite: Suite,
    backends: Iterable[str] | None = None,
    only: Match = (),
    time: bool | None = None,
    timing: Mapping[str, Any] | None = None,
    emulation: Mapping[str, Any] | None = None,
) -> Suite:
    """The suite as the command line wants it; None, () and {} leave the file's word.

    `only` replaces what the file keeps of the same field; the same field twice keeps the values of both; the field
    "group" chooses groups. `time` and `timing` hold for every group. Raises SuiteError for a setting that cannot be and
    where no case is left.
    """
    change = _timing_changer(timing or {})
    chosen = _chosen_groups(suite, [value for name, values in only if name == GROUP for value in values])
    groups = tuple(
        dataclasses.replace(group, time=group.time if time is None else time, timing=change(group.timing))
        for group in chosen
    )
    changed = dataclasses.replace(
        suite,
        backends=suite.backends if backends is None else tuple(backends),
        groups=groups,
        timing=change(suite.timing),
        only=merge_only(suite.only, tuple(item for item in only if item[0] != GROUP)),
        emulation=suite.emulation.model_copy(update=dict(emulation or {})),
    )
    _refuse_nothing_left(changed, "--only " + " --only ".join(only_text(item) for item in only))
    return changed


def _chosen_groups(suite: Suite, names: list[str]) -> tuple[ExpandedGroup, ...]:
    known = [group.name for group in suite.groups]
    for name in names:
        if name not in known:
            raise SuiteError(f'--only group={name}: suite "{suite.name}" has no such group{suggest(name, known)}')
    return tuple(group for group in suite.groups if not names or group.name in names)


def _find(path: str | Path) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    shipped = _SHIPPED / f"{path}.yaml"
    if path.name == str(path) and shipped.is_file():
        return shipped
    if path.is_dir():
        raise SuiteError(f"{path}: is a folder; name a suite file in it")
    names = sorted(file.stem for file in _SHIPPED.glob("*.yaml"))
    raise SuiteError(f"{path}: no such suite file, and no shipped suite of that name{suggest(path.stem, names)}")


def _build(source: Source, path: Path, axes: Sequence[Axis] = (), only: Match = ()) -> Suite:
    from attnbench.suite.schema import validate

    model = validate(source)
    name = model.name or _name_from(path, source)
    _refuse_repeated_names(model, source)
    defaults = build_defaults(model.defaults, source)
    plans = {index: build_plan(group, defaults, source, ("groups", index)) for index, group in enumerate(model.groups)}
    left_out: tuple[str, ...] = ()
    if axes:
        plans, left_out = _with_axes(plans, axes, [value for name, values in only if name == GROUP for value in values])
    groups = tuple(_groups(model, plans, source))
    _refuse_repeated_cases(groups, source)
    _check_input_files(groups, source)
    asked = {target for axis in axes for target in axis.targets}
    only_of_file = build_match(model.only, source, ("only",))
    suite = Suite(
        name=name,
        about=model.about,
        backends=model.backends,
        path=path,
        groups=groups,
        timing=model.timing,
        checks=model.checks,
        only=tuple(item for item in only_of_file if not asked.intersection(targets(item[0]))),
        emulated=model.emulated,
        emulation=model.emulation,
        left_out=left_out,
        at_least=model.at_least,
        source=source,
    )
    _refuse_nothing_left(suite, source.name)
    return suite


def _name_from(path: Path, source: Source) -> str:
    import re

    from attnbench.suite.schema import NAME_PATTERN

    if not re.match(NAME_PATTERN, path.stem):
        raise source.error((), '"name" is missing at the top level, and the file\'s own name cannot stand for it')
    return path.stem


def _with_axes(
    plans: Mapping[int, Plan], axes: Sequence[Axis], chosen: Sequence[str]
) -> tuple[dict[int, Plan], tuple[str, ...]]:
    """The plans that have a case left with these axes, and what of them is left out. chosen: groups; none: all."""
    asked = {index: plan for index, plan in plans.items() if plan.name in chosen} or plans
    changed = override(tuple(asked.values()), axes)
    left = {index: group.plan for index, group in zip(asked, changed) if group.plan is not None}
    return left, tuple(text for group in changed for text in group.left_out)


def _groups(model: SuiteModel, plans: Mapping[int, Plan], source: Source) -> Iterator[ExpandedGroup]:
    from attnbench.suite.schema import merge

    for index, plan in plans.items():
        group, location = model.groups[index], ("groups", index)
        timing = merge(model.timing, group.timing)
        mistake = timing.mistake()
        if mistake:
            own = bool(group.timing.model_fields_set)
            raise source.error((*location, "timing") if own else ("timing",), mistake)
        yield ExpandedGroup(plan, group.time, timing, merge(model.checks, group.checks), expand(plan, source))


def _refuse_repeated_names(model: SuiteModel, source: Source) -> None:
    first: dict[str, int] = {}
    for index, group in enumerate(model.groups):
        if group.name in first:
            line = source.line(("groups", first[group.name]))
            raise source.error(
                ("groups", index, "name"), f'group "{group.name}" is here twice (first in line {line}); rename one'
            )
        first[group.name] = index
    listed: set[str] = set()
    for index, name in enumerate(model.backends or ()):
        if name in listed:
            raise source.error(("backends", index), f'"backends" lists "{name}" twice; remove one')
        listed.add(name)


def _refuse_repeated_cases(groups: tuple[ExpandedGroup, ...], source: Source) -> None:
    """Keys are held as hashes of 8 bytes; only where two of these are equal are the keys themselves compared."""
    if len(groups) == 1 and not groups[0].cases.may_repeat():
        return
    hashes = sorted(array.array("q", (hash(key) for group in groups for key in group.cases.each_key())))
    if any(map(operator.eq, hashes, itertools.islice(hashes, 1, None))):
        _name_repeated_case(groups, source)


def _name_repeated_case(groups: tuple[ExpandedGroup, ...], source: Source) -> None:
    """Raises SuiteError for the first case that is there twice, if one is."""
    seen: dict[str, ExpandedGroup] = {}
    for group in groups:
        for key in group.cases.each_key():
            first = seen.get(key)
            if first is group:
                raise source.error(group.plan.location, f'group "{group.name}" has the case {key} twice; exclude one')
            if first is not None:
                line = source.line(first.plan.location)
                whose = f'group "{first.name}" (line {line}) has already; exclude it in one of them'
                raise source.error(group.plan.location, f'group "{group.name}" has the case {key}, which {whose}')
            seen[key] = group


def _check_input_files(groups: tuple[ExpandedGroup, ...], source: Source) -> None:
    """Raises SuiteError where a case names a .safetensors file that does not hold its tensors."""
    read: set[str] = set()
    for group in groups:
        for case in group.cases if group.names_files() else ():
            if not case.inputs.isidentifier():
                from attnbench.reference.inputs import InputFileError, check_header, check_numbers

                try:
                    check_header(case)
                    if case.inputs not in read:
                        check_numbers(case.inputs)
                    read.add(case.inputs)
                except InputFileError as error:
                    raise source.error(group.plan.location, f'group "{group.name}": {error}') from None


def _refuse_nothing_left(suite: Suite, asked: str) -> None:
    """Raises SuiteError where no case is left, naming the field that keeps none."""
    if not any(group.cases for group in suite.groups):
        raise suite.source.error(("groups",), "the suite expands to nothing: every case is excluded")
    if any(map(matcher(suite.only), suite.all_cases())):
        return
    for item in suite.only:
        if not any(map(matcher((item,)), suite.all_cases())):
            there = sorted({field_text(case, item[0]) for case in suite.all_cases()})
            shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
            has = f"has {only_text(item)}; it has {item[0]} {shown}"
            raise SuiteError(f'{asked}: no case of suite "{suite.name}" {has}')
    raise SuiteError(f'{asked}: no case of suite "{suite.name}" matches all of these together; drop one')


def _timing_changer(changes: Mapping[str, Any]) -> Callable[[Timing], Timing]:
    if not changes:
        return lambda timing: timing
    from attnbench.suite.schema import change_timing

    return lambda timing: change_timing(timing, changes)
