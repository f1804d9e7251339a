"""What a run shows while it goes on: lines for logs, a bar for terminals, and how long it still takes."""

import io
import re
from types import SimpleNamespace

import pytest
import rich.progress
from fakes.report_runs import case, failed, incorrect, ok, unsupported
from rich.console import Console

from attnbench.cli.running import time_left
from attnbench.cli.running.terminal import BarProgress, PlainProgress, outcome_text, show_left
from attnbench.cli.running.time_left import TimeLeft
from attnbench.report.causes import cut, first_line, in_short

RECORDS = (
    ok("naive", 1.5e-3),
    incorrect("mine", "mask: each query sees one key too few"),
    failed("crashes", "oom", "no room\nfor it"),
    unsupported("fp8", "takes e4m3"),
)


def job(probes=0, timed=True, **fields):
    checks = SimpleNamespace(probes=("needle",) * probes)
    return SimpleNamespace(case=case(**fields), time=timed, checks=checks)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only a test lets pass."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(time_left, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_lines_for_a_log(capsys, clock):
    """Of six records two were taken before; each takes 30 s."""
    shown = PlainProgress()
    todo = [(job(timed=False), [record.backend for record in RECORDS])]
    shown.begin(6, 2, todo)
    for record in RECORDS:
        shown.phase(todo[0][0], record.backend, "check")
        clock.s += 30.0
        shown.record(record)
    shown.end()
    key = RECORDS[0].case_key
    cause = "mask: each query sees one key too few: relative RMSE 0.04, limit 0.003 at batch 0, head 3, row 17"
    assert capsys.readouterr().out.splitlines() == [
        "2 of 6 records were taken before; going on with the rest",
        f"[3/6] ok          {key}  naive  1.500 ms  [about 2 min left]",
        f"[4/6] incorrect   {key}  mine  incorrect: {cause}  [about 60 s left]",
        f"[5/6] error       {key}  crashes  error (oom): no room  [about 30 s left]",
        f"[6/6] unsupported {key}  fp8  unsupported: takes e4m3",
    ]


def test_lines_for_a_log_of_so_many_columns(capsys, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    shown = PlainProgress()
    shown.begin(1, 0, [(job(timed=False), ["mine"])])
    shown.record(RECORDS[1])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60 and RECORDS[1].case_key in lines[0] and lines[1].startswith("    mine")


def test_nothing_left(capsys):
    PlainProgress().begin(4, 4)
    assert capsys.readouterr().out == "4 of 4 records were taken before; nothing is left\n"


@pytest.mark.parametrize("width", [60, 80, 150])
def test_a_bar_keeps_failures_above_it_and_no_line_is_wider_than_the_terminal(monkeypatch, width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    monkeypatch.setattr(rich.progress, "get_console", lambda: console)
    shown = BarProgress()
    todo = [(job(), [record.backend for record in RECORDS])]
    shown.begin(4, 0, todo)
    for record in RECORDS:
        shown.phase(todo[0][0], record.backend, "check")
        shown.record(record)
    shown.end()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    assert max(map(len, lines)) <= width
    key = RECORDS[0].case_key
    assert any("4/4" in line and line.endswith("1 error, 1 incorrect") for line in lines)
    assert f"{key}  fp8  check"[:width] in text and "1.500 ms" not in text
    assert any(line.startswith(f"{key}  crashes") for line in lines)
    assert not any(key[:length] in (line.split() or [""])[-1:] for line in lines for length in range(9, len(key)))
    BarProgress().end()  # a run that ends before it begins


def test_probes_count_in_the_time_left(clock):
    """One case without probes took 2 s; the other has 9 of them: ten checks, 20 s. Timing took 5 s each."""
    plain, probed = job(seqlen=64), job(probes=9, seqlen=128)
    left = TimeLeft([(plain, ["naive"]), (probed, ["naive"])])
    assert left.seconds() is None
    left.phase("naive", "check")
    clock.s += 2.0
    left.phase("naive", "time")
    clock.s += 5.0
    left.record(ok("naive", 1e-3, seqlen=64))
    assert left.seconds() == pytest.approx(20.0 + 5.0)
    left.phase("naive", "check")
    clock.s += 4.0
    assert left.seconds() == pytest.approx(21.0)
    left.record(ok("naive", 1e-3, seqlen=128))
    assert left.seconds() == 0.0


def test_each_backend_has_its_own_pace(clock):
    """The slow one is checked in 60 s, the fast one in 1 s; oracles take 3 s a case and belong to both."""
    todo = [(job(timed=False, seqlen=64 * place), ["fast", "slow"]) for place in (1, 2)]
    left = TimeLeft(todo)
    left.phase("", "oracle")
    clock.s += 3.0
    for backend, seconds in (("fast", 1.0), ("slow", 60.0)):
        left.phase(backend, "check")
        clock.s += seconds
        left.record(ok(backend, None, seqlen=64))
    assert left.seconds() == pytest.approx(3.0 + 1.0 + 60.0)
    left.record(ok("slow", None, seqlen=128))
    assert left.seconds() == pytest.approx(1.0 + 1.0)  # oracles are spread over three checks now


@pytest.mark.parametrize(("seconds", "text"), [(1.4, "about 1 s"), (89, "about 89 s"), (150, "about 2 min")])
def test_time_left(seconds, text):
    assert show_left(seconds) == text


def test_a_reason_is_never_cut_before_its_cause():
    cause = "mask: causal is aligned top left, not bottom right"
    rules = "; ".join(f"rule {number} 23.2, limit 0.018 at batch 0, head 1, row {number}" for number in range(9))
    record = incorrect("mine", cause)
    reason = f"{rules}; likely cause: {cause}\nthe map"
    assert in_short(reason).startswith(f"{cause}: rule 0 23.2, limit 0.018") and len(in_short(reason)) <= 160
    assert in_short(reason).endswith(" …") and "map" not in in_short(reason)
    assert in_short(reason, 20) == f"{cause}: …"
    assert outcome_text(record).startswith(f"incorrect: {cause}: ")


def test_cut_ends_with_a_whole_word():
    assert first_line(" \n a\nb") == "a" and first_line("") == ""
    assert cut("one two three", 13) == "one two three" and cut("one two three", 12) == "one two …"
    assert cut("one two three", 9) == "one two …" and cut("x" * 30, 10) == "x" * 8 + " …"


@pytest.mark.parametrize("shown", [PlainProgress(), BarProgress()])
def test_what_a_kernel_prints_moves_no_cursor(capsys, shown):
    shown.output("mine", "\x1b[31mred\x1b[0m\ttab\nbell\x07 and [bold]markup[/bold]\r\n\x1b[2Jlast")
    shown.output("", "")
    assert capsys.readouterr().out.splitlines() == [
        "mine | red\ttab", "mine | bell\\x07 and [bold]markup[/bold]", "mine | last",
    ]  # fmt: skip
