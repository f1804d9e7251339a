"""A loaded suite: its groups, the jobs it comes to, which cases `--only` keeps, and its text as stored with a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from attnbench.case import Case
from attnbench.errors import suggest
from attnbench.suite.expansion import Cases
from attnbench.suite.groups import Match, Plan, match_to_dict
from attnbench.suite.source import SCIENTIFIC, Source, SuiteError
from attnbench.suite.values import check_name, parse_value

if TYPE_CHECKING:
    from pydantic import BaseModel

    from attnbench.settings import Checks, Emulation, Timing


@dataclass(frozen=True, slots=True)
class Job:
    """One case to run on every backend, and how."""

    case: Case
    group: str
    time: bool
    timing: Timing
    checks: Checks
    emulation: Emulation


@dataclass(frozen=True, slots=True)
class ExpandedGroup:
    """An expanded group; its timing and checks are complete, the suite's merged with its own."""

    plan: Plan
    time: bool
    timing: Timing
    checks: Checks
    cases: Cases

    @property
    def name(self) -> str:
        return self.plan.name

    def names_files(self) -> bool:
        """Whether some case takes its inputs from a file."""
        axes = (axis for axis in self.plan.axes if "inputs" in axis.targets)
        return any(not str(value).isidentifier() for axis in axes for row in axis.rows for value in row)


@dataclass(frozen=True, slots=True)
class Suite:
    """A loaded suite. `backends` None: all that are available. `only`: the cases to keep, by field and values.

    left_out: what `--axis` of the command line left no place for, a line each.
    emulated: our kernels join in the CPU emulation where `backends` is None and the device is the CPU.
    at_least: what a gate demands of every run of it, as `floor.parse_floor` reads it.
    """

    name: str
    about: str
    backends: tuple[str, ...] | None
    path: Path
    groups: tuple[ExpandedGroup, ...]
    timing: Timing
    checks: Checks
    only: Match
    emulated: bool
    emulation: Emulation
    source: Source = field(compare=False, repr=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    at_least: tuple[str, ...] = ()

    def all_cases(self) -> Iterator[Case]:
        """Those that `only` drops too."""
        return (case for group in self.groups for case in group.cases)

    def kept(self) -> Iterator[tuple[ExpandedGroup, Case]]:
        """Every case that `only` keeps, group by group, in the order of the file. Never empty; nothing is held."""
        keep = matcher(self.only) if self.only else None
        return ((group, case) for group in self.groups for case in group.cases if keep is None or keep(case))

    def kept_keys(self) -> Iterator[tuple[ExpandedGroup, str]]:
        """The keys of the same."""
        if self.only:
            return ((group, case.key) for group, case in self.kept())
        return ((group, key) for group in self.groups for key in group.cases.each_key())

    def count(self) -> int:
        """How many cases `only` keeps."""
        return sum(1 for _ in self.kept()) if self.only else sum(len(group.cases) for group in self.groups)

    def jobs(self) -> tuple[Job, ...]:
        """The cases that `only` keeps, and how each is run."""
        return tuple(
            Job(case, group.name, group.time, group.timing, group.checks, self.emulation) for group, case in self.kept()
        )

    def excluded(self) -> dict[Case, str]:
        """The cases that the file excludes, with the reason it gives; those that `only` drops are not among them."""
        keep = matcher(self.only)
        return {case: reason for group in self.groups for case, reason in group.cases.excluded() if keep(case)}

    def check_backends(self, known: Iterable[str]) -> None:
        """Raises SuiteError, at its line, for a backend in the list that is not known."""
        known = list(known)
        for index, name in enumerate(self.backends or ()):
            if name not in known:
                message = f'unknown backend "{name}" under "backends"{suggest(name, known)}'
                raise self.source.error(("backends", index), message)

    def to_yaml(self, complete: bool = True) -> str:
        """The resolved suite: defaults merged into the groups. Loads to the same jobs.

        complete: every setting of timing and checks is spelled out; else those that are not at their default.
        """
        return suite_text(self, complete)


# A resolved suite as YAML: what is stored beside a run's records, so that the run can be repeated from it.

_LINE_WIDTH = 110


def suite_text(suite: Suite, complete: bool) -> str:
    """YAML that loads to the same jobs; the same suite gives the same bytes."""
    body: dict[str, Any] = {"name": suite.name, "about": suite.about}
    if suite.backends is not None:
        body["backends"] = list(suite.backends)
    if suite.emulated:
        body["emulated"] = True
    emulation = _difference(suite.emulation, type(suite.emulation)())
    if emulation:
        body["emulation"] = emulation
    body["groups"] = [_group(group, suite) for group in suite.groups]
    for name, settings in (("timing", suite.timing), ("checks", suite.checks)):
        told = settings.model_dump(mode="json") if complete else _difference(settings, type(settings)())
        if told:
            body[name] = told
    if suite.at_least:
        body["at_least"] = list(suite.at_least)
    if suite.only:
        body["only"] = match_to_dict(suite.only)
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)


def _group(group: ExpandedGroup, suite: Suite) -> dict[str, Any]:
    body = group.plan.to_dict()
    if not group.time:
        body["time"] = False
    for name, own, common in (("timing", group.timing, suite.timing), ("checks", group.checks, suite.checks)):
        different = _difference(own, common)
        if different:
            body[name] = different
    return body


def _difference(own: BaseModel, common: BaseModel) -> dict[str, Any]:
    """The settings of `own` that differ from `common`, nested models likewise."""
    return _differing(own.model_dump(mode="json"), common.model_dump(mode="json"))


def _differing(own: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in own.items():
        if value != common[name]:
            found[name] = _differing(value, common[name]) if isinstance(value, dict) else value
    return found


class _Dumper(yaml.SafeDumper):
    """Lists of plain values in one line, and what reads as a number in a suite kept in quotes where it is text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flat = not any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(SCIENTIFIC), list("-+0123456789"))


# Which cases to keep: `only` in a suite and `--only` on the command line. A match is ((field, values), ...).

# `--only group=paper_grid` chooses groups; no field of a case, so that a suite's own `only` has none of it.
GROUP = "group"


def parse_only(text: str) -> tuple[str, tuple[Any, ...]]:
    """`dtype=e4m3,bf16` -> ("dtype", ("e4m3", "bf16")), as `with_overrides` takes it. Raises SuiteError."""
    name, equals, listed = text.partition("=")
    name = name.strip()
    if not equals or not listed.strip():
        raise SuiteError(f'--only {text}: write field=value[,value], such as "dtype=bf16" or "seqlen=1k,2k"')
    values = [value.strip() for value in listed.split(",")]
    if name == GROUP:
        return name, tuple(values)
    try:
        check_name(name, "")
        return name, tuple(parse_value(name, value) for value in values)
    except ValueError as error:
        raise SuiteError(f"--only {text}: {error}") from None


def matcher(only: Match) -> Callable[[Case], bool]:
    """Whether a case has, in every field listed, one of its values; `seqlen` where both lengths equal it."""

    def value(case: Case, name: str) -> Any:
        if name == "seqlen":
            return case.seqlen_q if case.seqlen_q == case.seqlen_k else None
        return case.scale if name == "softmax_scale" else getattr(case, name)

    if not only:
        return lambda case: True
    allowed = [(name, frozenset(values)) for name, values in only]
    return lambda case: all(value(case, name) in values for name, values in allowed)


def field_text(case: Case, name: str) -> str:
    """A case's value of a field (`seqlen` too), as it would be asked for."""
    if name == "seqlen":
        return str(case.seqlen_q) if case.seqlen_q == case.seqlen_k else f"{case.seqlen_q} and {case.seqlen_k}"
    return _text(getattr(case, name))


def only_text(item: tuple[str, tuple[Any, ...]]) -> str:
    """`dtype=e4m3,bf16`: one field of a match, as it would be asked for."""
    return f"{item[0]}={','.join(map(_text, item[1]))}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def merge_only(kept: Match, asked: Match) -> Match:
    """What to keep when both are given: for a field in both, what was asked; a field asked for twice: either value."""
    merged: dict[str, tuple[Any, ...]] = {}
    for name, values in asked:
        merged[name] = tuple(dict.fromkeys((*merged.get(name, ()), *values)))
    return tuple({**dict(kept), **merged}.items())
