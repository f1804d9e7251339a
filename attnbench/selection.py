"""Which cases to keep: `only` in a suite and `--only` on the command line. A match is ((field, values), ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.case import Case
from attnbench.plan import Match
from attnbench.suite_values import check_name, parse_value
from attnbench.suite_yaml import SuiteError

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
    return lambda case: all(value(case, name) in values for name, values in only)


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
