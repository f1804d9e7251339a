"""The process that poses the questions: `python -m attnbench.behaviour.child ANSWERS`, told what to do on stdin.

A process of its own for each backend, since a plugin may crash, hang or print; its answers go into a file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbench.backend import Base


def _found(name: str, known: Mapping[str, Base]) -> dict[str, object]:
    from attnbench.behaviour.questions import RefusedError, answers

    if name not in known:
        return {"error": f'no backend "{name}"', "known": list(known)}
    try:
        told = answers(known[name])
        return {"version": str(known[name].version()), "answers": told}
    except RefusedError as refusal:
        return {"version": "", "answers": {}, "refused": str(refusal)}


def main() -> None:
    asked = json.loads(sys.stdin.read())
    from attnbench.backends import builtin
    from attnbench.plugins import PluginError, load

    known = builtin()
    try:
        plugins = load(asked["plugins"], taken=known)
    except PluginError as error:
        found: dict[str, object] = {"error": str(error)}
    else:
        name, known = asked["backend"], known | plugins
        found = {"names": list(plugins)} if name is None else _found(name, known)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
