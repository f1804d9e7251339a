"""Markdown pieces of a report: tables, folded parts, code, and text that came from records made safe to print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from tabulate import tabulate

from attnbench.units import count

__all__ = ["anonymous", "bullets", "code", "count", "details", "fence", "image", "listing", "plain", "table"]

# An absolute path says nothing about the measurement and much about somebody's machine: only its last part is kept.
_PATH = re.compile(r"(?<![\w:/.~-])~?(?:/[\w.+@~-]+)+/([\w.+@~-]+)")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{5,}\b")
_NUMBER = re.compile(r"\d[\d.,]*|\binf\b")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A markdown table; the first `left` columns stand left, the others right."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    align = ["left" if column < left else "right" for column in range(len(headers))]
    heads = [_cell(header) for header in headers]
    return tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=align)


def filled_table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table without the columns that hold a dash in every row: what no record knows needs no column."""
    kept = [column for column in range(len(headers)) if column < left or any(row[column] != "—" for row in rows)]
    return table([headers[column] for column in kept], [[row[column] for column in kept] for row in rows], left)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def details(title: str, body: str) -> str:
    """A part that stays folded until the reader opens it."""
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def fence(text: str, language: str = "") -> str:
    """A code block; its fence is longer than any inside."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def image(about: str, path: Path) -> str:
    """A picture in a folder beside the page; a link ends at the first blank or bracket unless they are escaped."""
    return f"![{about}]({quote(path.parent.name)}/{quote(path.name)})"


def code(text: str) -> str:
    return f"`{text}`"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def anonymous(text: str) -> str:
    """Text of a record without terminal colours, folders and addresses, so that equal failures read equal."""
    return _ADDRESS.sub("0x…", _PATH.sub(r"\1", _CONTROL.sub("", text)))


def numberless(text: str) -> str:
    """What texts that differ in their numbers only have in common."""
    return _NUMBER.sub("#", text)


def plain(text: str) -> str:
    """Text of a record inside a sentence or a cell: what markdown or HTML would read as markup is escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", escaped)
