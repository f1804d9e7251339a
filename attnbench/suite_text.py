"""A resolved suite as YAML: what is stored beside a run's records, so that the run can be repeated from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from attnbench.plan import match_to_dict
from attnbench.suite_yaml import SCIENTIFIC

if TYPE_CHECKING:
    from pydantic import BaseModel

    from attnbench.suite import Group, Suite

_LINE_WIDTH = 110


def suite_text(suite: Suite) -> str:
    """YAML that loads to the same jobs; the same suite gives the same bytes."""
    body: dict[str, Any] = {"name": suite.name, "about": suite.about}
    if suite.backends is not None:
        body["backends"] = list(suite.backends)
    body["groups"] = [_group(group, suite) for group in suite.groups]
    body["timing"] = suite.timing.model_dump(mode="json")
    body["checks"] = suite.checks.model_dump(mode="json")
    if suite.only:
        body["only"] = match_to_dict(suite.only)
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)


def _group(group: Group, suite: Suite) -> dict[str, Any]:
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

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.Node:
        flat = not any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(SCIENTIFIC), list("-+0123456789"))
