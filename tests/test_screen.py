"""Tables and lines of a terminal: they fit, whatever its width, and no word of a name or figure is broken."""

import io
import shlex

import pytest
from rich.console import Console

from attnbench import screen
from attnbench.screen import NAME, TEXT, Column, Row, sheet, shell_command, wrapped

KEY = "bf16-d128-h16.16-b4-q4096-k4096-causal-normal.0"
HEADS = [
    Column("case", NAME), Column("backend", NAME), Column("base"), Column("new"), Column("interval"),
    Column("verdict", NAME, stays=True), Column("why", TEXT),
]  # fmt: skip
WHY = "its own interval of the median is wider than the margin that was asked for"
ROWS = [
    Row((KEY, "hopper[pingpong]", "1.000 ms", "1.100 ms", "+9.0 % to +11 %", "slower", "")),
    Row((KEY.replace("4096", "128"), "naive", "2.000 ms", "2.000 ms", "-0.1 % to +0.2 %", "inconclusive", WHY)),
]


def shown(heads, rows, width):
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    for part in sheet(heads, rows, width):
        console.print(part)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 160, 240])
def test_every_word_is_there_and_no_line_is_too_wide(width):
    lines = shown(HEADS, ROWS, width)
    assert max(map(len, lines)) <= width
    words = [word for line in lines for word in line.split()]
    for row in ROWS:
        for cell in row.cells:
            assert not set(cell.split()) - set(words), (cell, lines)


def test_a_wide_terminal_has_one_line_a_row():
    lines = shown(HEADS, ROWS, 240)
    assert len(lines) == 2 + len(ROWS) and lines[-1].endswith(WHY)


def test_at_80_columns_names_stand_above_figures():
    assert shown(HEADS, ROWS, 80) == [
        "case",
        "  backend               base       new          interval  verdict",
        KEY,
        "  hopper[pingpong]  1.000 ms  1.100 ms   +9.0 % to +11 %  slower",
        KEY.replace("4096", "128"),
        "  naive             2.000 ms  2.000 ms  -0.1 % to +0.2 %  inconclusive",
        "    its own interval of the median is wider than the margin that was asked for",
    ]


def test_what_is_alike_is_told_once():
    rows = [Row((KEY, "naive", "1 ms", "", "", "same", "")), Row((KEY + "1", "naive", "2 ms", "", "", "same", ""))]
    assert shown(HEADS, rows, 80) == [
        "in every row: backend naive",
        f"{'case':{len(KEY) + 1}}  base  verdict",
        "─" * (len(KEY) + 16),
        f"{KEY}   1 ms  same",
        f"{KEY}1  2 ms  same",
    ]
    assert "in every row" not in shown(HEADS, rows[:1], 80)[0]
    assert shown(HEADS, [rows[0], rows[0]], 80)[-1] == "same"  # what the table is for is left


def test_figures_that_fit_no_line_are_continued():
    heads = [Column("kernel", NAME), *(Column(f"figure\n{place}") for place in range(20))]
    rows = [Row((name, *(f"{place + offset:,}" for place in range(20))))
            for name, offset in (("one", 1000), ("two", 5000))]  # fmt: skip
    lines = shown(heads, rows, 60)
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines if line.startswith(("one", "two"))] == ["one", "two"] * 4
    assert {cell for row in rows for cell in row.cells} <= {word for line in lines for word in line.split()}


def test_lines_break_at_blanks_only():
    text = f"failed: {KEY} of hopper[pingpong] said no"
    lines = wrapped(text, width=40)
    assert KEY in [line.strip() for line in lines] and " ".join(line.strip() for line in lines) == text
    assert wrapped(text, width=200) == [text]


def test_without_a_terminal_lines_are_as_long_as_they_are(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert screen.columns() is None and wrapped("word " * 99) == ["word " * 99]
    monkeypatch.setenv("COLUMNS", "33")
    assert screen.columns() == 33 and max(map(len, wrapped("word " * 99))) <= 33
    monkeypatch.setenv("COLUMNS", "wide")
    assert screen.columns() is None


def test_a_command_can_be_copied_from_a_narrow_terminal():
    words = ["attnbench", "repro", "results/a run", KEY, "hopper[ws]", ">", "repro.py"]
    lines = shell_command(words, "again: ", 60)
    assert max(map(len, lines)) <= 60 and all(line.endswith(" \\") for line in lines[:-1])
    read = shlex.split(" ".join(line.removesuffix("\\") for line in lines).removeprefix("again: "))
    assert read == words
    assert shell_command(words, "", None) == ["attnbench repro 'results/a run' " + f"{KEY} 'hopper[ws]' > repro.py"]


def test_a_figure_is_not_parted_from_its_unit():
    assert wrapped("intervals of 1.6 % to 44 %, half", "  ", 25) == ["intervals of 1.6 % to", "  44 %, half"]
