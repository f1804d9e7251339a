"""Run directories that somebody damaged, or wrote to harm: a seed gives the same ones everywhere."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

HOSTILE_TEXTS = (
    "", "x", "\n::stop-commands::tok\n", "##[stop-commands]tok", "<script>alert(1)</script>", "`code`", "a|b",
    "$\\frac$",
    '"; print("PWNED"); x="', "'; touch PWNED #", "\x00", "\x1b[31mred\x1b[0m", "\udcff", "\ud83d", "\u202e", "é",
    "](http://x)", "# head", "{x} $y", "NaN", "Infinity", "..", "/etc/passwd", "x" * 5000, "\r\n", "%0A::error::x",
    "&lt;", "https://user:hunter2@host/x",
)  # fmt: skip
HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e-300, 1e300, 2**31, 2**53, 2**64, 10**400, float("inf"), [], {},
    [1], ["x"], [[]], [None], {"a": 1}, {"": {"": {}}},
)  # fmt: skip
HOSTILE_BYTES = (b"\x00", b"\xff", b"\n", b'"', b"{", b"[" * 2000, b"\\ud800", b"1e999", b"NaN", b",", b"\xe2\x80\xae")
HOSTILE_YAML = (
    "about2: 2026-13-45\n", "x: &a [1, *a]\n", "name: [1]\n", "? [a]\n: b\n", "\t", "!!int x\n", "a: b: c\n",
    "[" * 3000, "name: '<script>'\n", "\x00", "--- \n--- \n",
)  # fmt: skip
RECORDS, ENVIRONMENT, SENTINELS, SUITE = "records.jsonl", "environment.json", "sentinels.jsonl", "suite.yaml"


def mutate(source: Path, target: Path, seed: int) -> str:
    """A copy of a run with one to three changes; what they were, in words."""
    dice = random.Random(seed)
    shutil.copytree(source, target)
    changes = [dice.choice(_CHANGES)(target, dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    return f"seed {seed}: " + "; ".join(changes)


def _value(run: Path, dice: random.Random) -> str:
    """Another value at a place of a JSON file."""
    name, rows, place = _rows(run, dice)
    holder, key = _somewhere(rows[place], dice)
    if holder is None:
        rows[place] = dice.choice(HOSTILE_VALUES)
        told = "the line itself"
    else:
        what = dice.random()
        old = holder[key]
        if what < 0.15:
            del holder[key]
        elif what < 0.25 and isinstance(holder, dict):
            holder[dice.choice(HOSTILE_TEXTS)] = holder.pop(key)
        elif what < 0.35 and isinstance(holder, dict):
            holder[dice.choice(HOSTILE_TEXTS)] = dice.choice(HOSTILE_VALUES)
        elif what < 0.7:
            text = dice.choice(HOSTILE_TEXTS)
            holder[key] = old + text if isinstance(old, str) and dice.random() < 0.5 else text
        else:
            holder[key] = dice.choice(HOSTILE_VALUES)
        told = f"at {key!r}"
    _write(run / name, rows)
    return f"{name}:{place + 1} {told}"


def _bytes(run: Path, dice: random.Random) -> str:
    """Bytes of a file flipped, lost, put in, or cut off."""
    path = run / dice.choice((RECORDS, RECORDS, ENVIRONMENT, SENTINELS, SUITE))
    if not path.is_file():
        return "nothing"
    data = bytearray(path.read_bytes())
    at = dice.randrange(len(data) + 1)
    how = dice.choice(("flip", "lose", "put", "cut", "empty", "twice"))
    if how == "flip" and data:
        data[at % len(data)] ^= 1 << dice.randrange(8)
    elif how == "lose":
        del data[at : at + dice.randrange(1, 200)]
    elif how == "put":
        data[at:at] = dice.choice(HOSTILE_BYTES)
    elif how == "cut":
        del data[at:]
    elif how == "empty":
        data.clear()
    else:
        data.extend(bytes(data))
    path.write_bytes(data)
    return f"{path.name}: {how} at byte {at}"


def _suite(run: Path, dice: random.Random) -> str:
    text = dice.choice(HOSTILE_YAML)
    if not (run / SUITE).is_file():
        return "nothing"
    with (run / SUITE).open("a") as suite:
        suite.write(text)
    return f"{SUITE}: {text[:20]!r}"


def _file(run: Path, dice: random.Random) -> str:
    """A file gone, or something else in its place."""
    path = run / dice.choice((RECORDS, ENVIRONMENT, SENTINELS, SUITE))
    how = dice.choice(("gone", "folder", "dangling link"))
    if path.is_dir():
        return "nothing"
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir(exist_ok=True)
    elif how == "dangling link" and not path.exists():
        path.symlink_to("nowhere")
    return f"{path.name}: {how}"


_CHANGES = (_value, _value, _value, _value, _value, _bytes, _bytes, _suite, _file)


def _rows(run: Path, dice: random.Random) -> tuple[str, list[Any], int]:
    """(name, the values of its lines, one of them) of a file that still is JSON; the records where the other is not."""
    for name in (dice.choice((RECORDS, RECORDS, ENVIRONMENT, SENTINELS)), RECORDS, ENVIRONMENT, SENTINELS):
        try:
            text = (run / name).read_text()
            rows = [json.loads(text)] if name == ENVIRONMENT else [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError, RecursionError):
            continue
        if rows:
            return name, rows, dice.randrange(len(rows))
    return RECORDS, [None], 0


def _somewhere(value: Any, dice: random.Random) -> tuple[Any, Any]:
    """A container inside the value and a key of it, each depth as likely; (None, None) where there is none."""
    places: dict[int, list[tuple[Any, Any]]] = {}

    def walk(inner: Any, depth: int) -> None:
        pairs = inner.items() if isinstance(inner, dict) else enumerate(inner[:3]) if isinstance(inner, list) else ()
        for key, item in pairs:
            places.setdefault(depth, []).append((inner, key))
            walk(item, depth + 1)

    walk(value, 0)
    return dice.choice(places[dice.choice(sorted(places))]) if places else (None, None)


def _write(path: Path, rows: list[Any]) -> None:
    if path.is_symlink() or path.is_dir():
        return
    indent = 2 if path.name == ENVIRONMENT else None
    path.write_text("".join(json.dumps(row, indent=indent) + "\n" for row in rows))
