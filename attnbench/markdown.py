"""Markdown pieces of a report: tables, folded parts, code, and text that came from records made safe to print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from tabulate import tabulate

from attnbench.printable import printable
from attnbench.units import count

__all__ = ["anonymous", "bullets", "code", "count", "details", "fence", "image", "label", "listing", "plain",
           "table"]  # fmt: skip

# An absolute path says nothing about the measurement and much about somebody's machine: only its last part is kept.
_PATH = re.compile(r"(?<![\w:/.~-])~?(?:/[\w.+@~-]+)+/([\w.+@~-]+)")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{5,}\b")
_NUMBER = re.compile(r"\d[\d.,]*|\binf\b")
# What GitHub and CommonMark read as markup wherever it stands, and what only at the beginning of a block (CommonMark
# 0.31, sections 4 and 5; GitHub also reads $...$ as a formula, and links www., https:// and @names).
_INLINE = re.compile(r"[\\`*_\[\]]|~~|(?<=:)//|(?<=www)\.|[$@](?=\S)")
_BLOCK = re.compile(r"^(?:(?:#{1,6}|[-+]|\d{1,9}[.)])(?=\s|$)|[|]|[=-]+$)")
# A name that a code span holds as it is. Others are escaped in <code>, which every reader of markdown takes.
_CODE = re.compile(r"[^`<>&\n]+")
_NAME = re.compile(r"(?!.*(?:\]\(|\b_|_\b|www\.))[A-Za-z][\w.=,+()/ \[\]-]*")
# The same for what stands in for a picture, where brackets may come in pairs.
_ALT = re.compile(r"(?:[^`<>&\n$*\\\[\]]|\[[^`<>&\n$*\\\[\]]*\](?!\())*")


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
    return " ".join(str(text).split()).replace("|", "\\|")  # also inside code, where only a table needs it


def details(title: str, body: str) -> str:
    """A part that stays folded until the reader opens it. The title is text, not markup."""
    return f"<details>\n<summary>{_html(title)}</summary>\n\n{body}\n\n</details>"


def fence(text: str, language: str = "") -> str:
    """A code block; its fence is longer than any inside."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def image(about: str, path: Path) -> str:
    """A picture in a folder beside the page; a link ends at the first blank or bracket unless they are escaped."""
    shown = about if _ALT.fullmatch(about) else plain(about)
    return f"![{shown}]({quote(path.parent.name)}/{quote(path.name)})"


def label(text: str) -> str:
    """A name in running text: as it is where nothing in it could be read as markup."""
    return text if _NAME.fullmatch(text) else plain(text)


def code(text: str) -> str:
    """A name as code, whatever it holds: `hopper[ws]`."""
    return f"`{text}`" if _CODE.fullmatch(text) and text == text.strip() else f"<code>{plain(text)}</code>"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def anonymous(text: str) -> str:
    """Text of a record without terminal colours, folders and addresses, so that equal failures read equal."""
    return _ADDRESS.sub("0x…", _PATH.sub(r"\1", printable(text)))


def numberless(text: str) -> str:
    """What texts that differ in their numbers only have in common."""
    return _NUMBER.sub("#", text)


def plain(text: str) -> str:
    """Text of a run inside a sentence, a cell or a heading, or as one: what would be read as markup is escaped."""
    return _BLOCK.sub(_entities, _INLINE.sub(_escaped, _html(" ".join(text.split()))))


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped(match: re.Match[str]) -> str:
    """With a backslash where that is enough; a link begins in spite of one, and a formula."""
    return f"\\{match[0]}" if match[0] in "\\`*_[]" else _entities(match)


def _entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(letter)};" if not letter.isdigit() else letter for letter in match[0])
