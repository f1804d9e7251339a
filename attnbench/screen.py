"""Tables and lines of a terminal: none is wider than it, no word is broken, what is alike in every row is told once.

Where the output is no terminal and `COLUMNS` is not set, lines are as long as they are: a log is read by programs too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

# Columns of a table where the output is no terminal: wide enough for a case key, its figures and a reason.
LOG_COLUMNS = 200
# Between two columns.
GAP = 2
# A column of text narrower than this is a column of single words: then it goes below its row.
LEAST_TEXT = 28
INDENT = "  "

NAME: Final = "name"
FIGURE: Final = "figure"
TEXT: Final = "text"
Kind = Literal["name", "figure", "text"]
# Places of columns, in three groups.
Places = tuple[Sequence[int], Sequence[int], Sequence[int]]


def columns() -> int | None:
    """How wide the terminal is, or what `COLUMNS` says; None where neither is there."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return max(20, shutil.get_terminal_size().columns)
    return None


def console() -> Console:
    from rich.console import Console

    return Console(width=columns() or LOG_COLUMNS, highlight=False)


def wrapped(text: str, indent: str = INDENT, width: int | None = None) -> list[str]:
    """The text in lines that fit, broken at blanks only; the second and later ones are indented.

    A word that is longer than a line stays whole. width: by default that of the terminal; without one, one line.
    """
    width = columns() if width is None else width
    if width is None or len(text) <= width:
        return [text]
    bound = text.replace(" %", "\u00a0%")  # a figure and its unit are one word
    lines = textwrap.wrap(bound, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0%", " %") for line in lines]


def shell_command(words: Sequence[str], label: str = "", width: int | None = None, quoted: bool = False) -> list[str]:
    """A command to copy behind a label, in lines that fit: those that go on end with a backslash.

    quoted: the words are as a shell takes them.
    """
    width = columns() if width is None else width
    first, *further = words if quoted else [word if word in (">", "|") else shlex.quote(word) for word in words]
    lines = [label + first]
    for word in further:
        if width is not None and len(lines[-1]) + len(word) + len("  \\") > width:
            lines.append(f"{INDENT * 2}{word}")
        else:
            lines[-1] += f" {word}"
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


@dataclass(frozen=True, slots=True)
class Column:
    """kind: a name (never broken, may stand on a line of its own), a figure (never broken, stands right) or text.

    stays: in its rows even where it is alike in all of them, since it is what the table is for.
    """

    header: str
    kind: Kind = "figure"
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """ends: a section of the table ends with it."""

    cells: tuple[str, ...]
    style: str = ""
    ends: bool = False


def sheet(heads: Sequence[Column], rows: Sequence[Row], width: int) -> Iterator[RenderableType]:
    """A table that fits: columns without a word are left out, those that are alike throughout told in a line above.

    Where it is still too wide, its texts stand below their rows, then its names above them; figures that fit no line
    are continued in a further table.
    """
    from rich.text import Text

    filled = [place for place, _ in enumerate(heads) if any(row.cells[place] for row in rows)]
    alike = _alike(heads, rows, filled)
    if alike:
        told = ", ".join(f"{' '.join(heads[place].header.split())} {rows[0].cells[place]}" for place in alike)
        for line in wrapped(f"in every row: {told}", width=width):
            yield Text(line)
    yield from _fitted([heads[place] for place in filled if place not in alike],
                       [Row(tuple(row.cells[place] for place in filled if place not in alike), row.style, row.ends)
                        for row in rows], width)  # fmt: skip


def _alike(heads: Sequence[Column], rows: Sequence[Row], filled: Sequence[int]) -> list[int]:
    """Columns that say the same in each of at least two rows; one column is left."""
    if len(rows) < 2:
        return []
    found = [place for place in filled if not heads[place].stays and len({row.cells[place] for row in rows}) == 1]
    return found[1:] if len(found) == len(filled) else found


def natural_width(heads: Sequence[Column], rows: Sequence[Row]) -> int:
    """Of the table with all of its words on one line, without the columns that `sheet` leaves out or tells above it."""
    filled = [place for place, _ in enumerate(heads) if any(row.cells[place] for row in rows)]
    alike = _alike(heads, rows, filled)
    kept = [place for place in filled if place not in alike]
    return _total([_width([heads[place].header, *(row.cells[place] for row in rows)]) for place in kept])


def _fitted(heads: Sequence[Column], rows: Sequence[Row], width: int) -> Iterator[RenderableType]:
    kinds = [head.kind for head in heads]
    widths = [_width([head.header, *(row.cells[place] for row in rows)]) for place, head in enumerate(heads)]
    least = [_least(heads[place], widths[place], [row.cells[place] for row in rows]) for place in range(len(heads))]
    names, figures, texts = ([place for place, of in enumerate(kinds) if of == kind] for kind in (NAME, FIGURE, TEXT))
    if _total(least) <= width:
        yield _plain(heads, rows, least)
        return
    for above in range(len(names) + 1):
        across = sorted((*names[above:], *figures))
        margin = len(INDENT) if above else 0
        if not across or margin + _total([widths[place] for place in across]) <= width:
            yield from _stacked(heads, rows, widths, (names[:above], across, texts), width)
            return
    yield from _continued(heads, rows, widths, (names, figures, texts), width)


def _continued(
    heads: Sequence[Column], rows: Sequence[Row], widths: Sequence[int], kinds: Places, width: int
) -> Iterator[RenderableType]:
    """Several tables with the same names, each with as many figures as fit; texts go with the last."""
    from rich.text import Text

    names, figures, texts = kinds
    beside = _total([widths[place] for place in names]) + GAP
    room = width - (beside if beside <= width // 2 else len(INDENT))
    parts: list[list[int]] = [[]]
    for place in figures:
        if parts[-1] and _total([widths[other] for other in (*parts[-1], place)]) > room:
            parts.append([])
        parts[-1].append(place)
    for number, part in enumerate(parts):
        if number:
            yield Text("")
        kept = [*names, *part, *(texts if number == len(parts) - 1 else ())]
        of_part = [Row(tuple(row.cells[place] for place in kept), row.style, row.ends) for row in rows]
        taken = [heads[place] for place in kept]
        if len(parts) > 1 or len(kept) < len(heads):
            yield from _fitted(taken, of_part, width)
        else:  # a single figure wider than the terminal
            yield _plain(taken, of_part, [widths[place] for place in kept])


def _plain(heads: Sequence[Column], rows: Sequence[Row], least: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for head, at_least in zip(heads, least):
        table.add_column(Text(head.header), justify="right" if head.kind == FIGURE else "left", min_width=at_least,
                         no_wrap=head.kind != TEXT, overflow="fold", vertical="top")  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row.cells), style=row.style, end_section=row.ends)
    return table


def _stacked(
    heads: Sequence[Column], rows: Sequence[Row], widths: Sequence[int], kinds: Places, width: int
) -> Iterator[RenderableType]:
    """Each row in lines: the columns that go above, across and below."""
    above, across, below = kinds
    from rich.text import Text

    indent = INDENT if above else ""

    def line(cells: Sequence[str], style: str) -> Text:
        parts = [cell.rjust(widths[place]) if heads[place].kind == FIGURE else cell.ljust(widths[place])
                 for place, cell in zip(across, cells)]  # fmt: skip
        return Text(indent + (" " * GAP).join(parts).rstrip(), style, no_wrap=True, overflow="ignore")

    titles = [heads[place].header.split("\n") for place in across]
    deepest = max(map(len, titles), default=0)
    if above:
        yield Text((" " * GAP).join(heads[place].header for place in above), "bold", no_wrap=True, overflow="ignore")
    for depth in range(deepest if across else 0):
        yield line([([""] * (deepest - len(title)) + title)[depth] for title in titles], "bold")
    for row in rows:
        named = [row.cells[place] for place in above if row.cells[place]]
        if named:
            yield from (Text(text, row.style) for text in wrapped((" " * GAP).join(named), width=width))
        if across:
            yield line([row.cells[place] for place in across], row.style)
        for place in below:
            if row.cells[place]:
                said = wrapped(f"{indent}{INDENT}{row.cells[place]}", f"{indent}{INDENT}", width)
                yield from (Text(text, row.style) for text in said)
        if row.ends:
            yield Text("")


def _least(head: Column, natural: int, cells: Iterable[str]) -> int:
    """How narrow a column may become."""
    if head.kind != TEXT:
        return natural
    words = max((len(word) for cell in (head.header, *cells) for word in cell.split()), default=0)
    return min(natural, max(words, LEAST_TEXT))


def _width(cells: Iterable[str]) -> int:
    return max((len(line) for cell in cells for line in cell.split("\n")), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)
