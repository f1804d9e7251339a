"""How a command ends where its streams are closed, full or not text, and where it meets what nobody foresaw."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import ROOT

from attnbench import __version__
from attnbench.cli import main
from attnbench.cli.group import FAULT

CASE = "groups: [{name: g, axes: {batch: 1, seqlen: 64, num_heads: 1, head_dim: 32}, time: false}]\n"
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")


def shell(line, folder, timeout_s=240):
    """`attnbench` of this checkout in a shell, whose redirections are the test."""
    text = line.replace("attnbench", f"{sys.executable} -m attnbench")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_as_good_as_none(closed, tmp_path):
    done = shell(f"attnbench list suites {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("quick" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_run_without_standard_streams_is_right_all_the_same(tmp_path):
    (tmp_path / "small.yaml").write_text(CASE)
    done = shell("attnbench run small.yaml --backend naive --device cpu --out r <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"status":"ok"' in (tmp_path / "r" / "records.jsonl").read_text()


@FULL
def test_a_run_goes_on_where_its_output_cannot_be_written(tmp_path):
    (tmp_path / "small.yaml").write_text(CASE)
    done = shell("attnbench run small.yaml --backend naive --device cpu --out r > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (3, "attnbench: output could not be written: No space left on device\n")
    assert '"status":"ok"' in (tmp_path / "r" / "records.jsonl").read_text()


@FULL
@pytest.mark.parametrize("line, status", [("list suites >", 3), ("run no_such 2>", 2), ("--help >", 3)])
def test_lost_output_is_no_success_and_changes_no_other_status(line, status, tmp_path):
    assert shell(f"attnbench {line} /dev/full", tmp_path).returncode == status


def test_errors_that_nobody_reads_change_nothing(tmp_path):
    assert shell("{ attnbench run no_such; echo $? > status; } 2>&1 | true", tmp_path).returncode == 0
    assert (tmp_path / "status").read_text() == "2\n"


def test_a_name_that_is_no_text_is_told_with_escapes(tmp_path):
    done = shell("attnbench run $'no\\xff\\x1b[31m'", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("attnbench: no\\xff:")
    assert "\x1b" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error", [RuntimeError("odd \ud800"), MemoryError(), RecursionError(), OSError(5, "odd"), KeyError()]
)
def test_what_nobody_foresaw_is_status_70_with_the_text_of_a_report(error, monkeypatch):
    def listing(plugins):
        raise error

    monkeypatch.setattr("attnbench.cli.listing.LISTINGS", {"suites": listing})
    done = CliRunner().invoke(main, ["list", "suites"])
    assert done.exit_code == FAULT == 70
    assert f"attnbench {__version__}, Python {sys.version.split()[0]}" in done.output
    assert "please report it" in done.output and "in listing" in done.output and type(error).__name__ in done.output
