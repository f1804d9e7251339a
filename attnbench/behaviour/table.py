"""What the backends answered, asked one process a backend, as a table, as markdown and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnbench.errors import UserError, suggest
from attnbench.markdown import code, table
from attnbench.printable import one_line
from attnbench.screen import INDENT, wrapped

# Of one backend's process, compilation included.
TIMEOUT_S = 900.0
ABOUT = (
    "What attention backends do where libraries differ, found by posing small problems with a known answer "
    "(`attnbench behaviour`). Nothing is judged here: each library documents its own choices, and a kernel that takes "
    "another's place has to make the same."
)
MARK = "<!-- Written by attnbench behaviour; `make behaviour` writes it again. -->"


class BehaviourError(UserError):
    """A backend that cannot be asked: an unknown name, or a plugin that does not import."""


def asked(backends: Sequence[str], plugins: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By backend: `version` and `answers` by question. Without names, the plugins' own. Raises BehaviourError."""
    names = list(backends) or _child(None, plugins)["names"]
    if not names:
        raise BehaviourError("name a backend (attnbench list backends), or give one with --plugin")
    return {name: _child(name, plugins) for name in dict.fromkeys(names)}


def _child(backend: str | None, plugins: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.json"
        command = [sys.executable, "-P", "-m", "attnbench.behaviour.child", str(path)]
        told = json.dumps({"backend": backend, "plugins": list(plugins)})
        try:
            done = subprocess.run(command, input=told, text=True, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return _refused(f"no answer within {TIMEOUT_S:.0f} s")
        if not path.is_file():
            last = one_line((done.stderr.strip().splitlines() or ["no word"])[-1])
            return _refused(f"its process ended with status {done.returncode}: {last}")
        found: dict[str, Any] = json.loads(path.read_text())
    if "error" in found:
        raise BehaviourError(found["error"] + suggest(str(backend), found.get("known", ())))
    return found


def _refused(why: str) -> dict[str, Any]:
    return {"version": "", "answers": {}, "refused": f"not asked: {why}"}


def questions(found: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(question for one in found.values() for question in one["answers"]))


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """A page: a row a backend with its version, and a section a question with who answers what."""
    told = {name: one for name, one in found.items() if one["answers"]}
    rows = [[code(name), one["version"] or one["refused"]] for name, one in found.items()]
    parts = [MARK, "# What backends do", ABOUT, table(["backend", "version"], rows, left=2)]
    for asked in questions(told):
        rows = [[answer, ", ".join(map(code, names))] for answer, names in _by_answer(told, asked).items()]
        parts += [f"## {asked[0].upper()}{asked[1:]}", table(["answer", "backends"], rows, left=2)]
    return "\n\n".join(parts) + "\n"


def _by_answer(found: dict[str, dict[str, Any]], asked: str) -> dict[str, list[str]]:
    by_answer: dict[str, list[str]] = {}
    for name, one in found.items():
        by_answer.setdefault(one["answers"].get(asked, "not asked"), []).append(name)
    return by_answer


def lines(found: dict[str, dict[str, Any]], width: int | None) -> Iterator[str]:
    """For a terminal: the backends, then a question and a line for each answer with the backends that gave it."""
    for name, one in found.items():
        yield from wrapped(f"{name}: {one['version'] or one['refused']}", INDENT, width)
    told = {name: one for name, one in found.items() if one["answers"]}
    for asked in questions(told):
        yield from ("", asked)
        for answer, names in _by_answer(told, asked).items():
            yield from wrapped(f"{INDENT}{', '.join(names)}: {answer}", 2 * INDENT, width)


def as_json(found: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"schema": 1, "backends": found}, indent=2)
