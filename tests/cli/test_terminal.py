"""What a run shows while it goes on: lines for logs, a bar for terminals."""

import functools
import io
import re
from types import SimpleNamespace

import pytest
import rich.progress
from fakes.report_runs import failed, incorrect, ok, unsupported
from rich.console import Console

from attnbench.cli import terminal
from attnbench.cli.terminal import BarProgress, PlainProgress, first_line, show_left

RECORDS = (
    ok("naive", 1.5e-3),
    incorrect("mine"),
    failed("crashes", "oom", "no room\nfor it"),
    unsupported("fp8", "takes e4m3"),
)


def test_lines_for_a_log(capsys, monkeypatch):
    """Of six records two were taken before; each takes 30 s."""
    clock = iter([0.0, 30.0, 60.0, 90.0, 120.0])
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown = PlainProgress()
    shown.begin(6, 2)
    for record in RECORDS:
        shown.phase(SimpleNamespace(case=record.case), record.backend, "check")
        shown.record(record)
    shown.end()
    key = RECORDS[0].case_key
    assert capsys.readouterr().out.splitlines() == [
        "2 of 6 records were taken before; going on with the rest",
        f"[3/6] ok          {key}  naive  1.500 ms  [about 2 min left]",
        f"[4/6] incorrect   {key}  mine  incorrect: {first_line(RECORDS[1].reason)}  [about 60 s left]",
        f"[5/6] error       {key}  crashes  error (oom): no room  [about 30 s left]",
        f"[6/6] unsupported {key}  fp8  unsupported: takes e4m3",
    ]


def test_nothing_left(capsys):
    PlainProgress().begin(4, 4)
    assert capsys.readouterr().out == "4 of 4 records were taken before; nothing is left\n"


def test_a_bar_keeps_failures_above_it_and_counts_them(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    monkeypatch.setattr(rich.progress, "Progress", functools.partial(rich.progress.Progress, console=console))
    shown = BarProgress()
    shown.begin(4, 0)
    for record in RECORDS:
        shown.phase(SimpleNamespace(case=record.case), record.backend, "check")
        shown.record(record)
    shown.end()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "4/4" in text and text.rstrip().endswith("[1 error, 1 incorrect]")
    assert f"crashes  {RECORDS[0].case_key}  error (oom): no room" in text and "1.500 ms" not in text
    BarProgress().end()  # a run that ends before it begins


@pytest.mark.parametrize(("seconds", "text"), [(1.4, "about 1 s"), (89, "about 89 s"), (150, "about 2 min")])
def test_time_left(seconds, text):
    assert show_left(seconds) == text


def test_first_lines_are_cut():
    assert first_line(" a\nb") == "a" and first_line("") == ""
    assert first_line("x" * 161) == "x" * 157 + "..."
