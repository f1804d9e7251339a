"""What CI systems read of a gate: no name of a run is a command or markup, and no file in the way changes a verdict."""

import json
import re
import subprocess
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from fakes.compared_runs import MACHINE, baseline, new_run
from fakes.report_runs import write_run

from attnbench.cli.verbs import main
from attnbench.compare.ci_output import MARK
from attnbench.records.store import read

# Each begins a command where it comes to the start of a line, or anywhere; or it is markup.
COMMANDS = ("::stop-commands::tok", "##[stop-commands]tok", "x\n::stop-commands::tok\n", "\x1b[2J::add-mask::a")
MARKUP = ("<script>alert(1)</script>", "`a`", "[a](http://b)", "a | b", "$x$", "]]>", "\x00\x1b[31m\ud83d")


def call(*arguments, env=None):
    result = CliRunner().invoke(main, list(map(str, arguments)), env={"GITHUB_STEP_SUMMARY": "", **(env or {})})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return baseline(tmp_path_factory.mktemp("ci") / "base")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return new_run(tmp_path_factory.mktemp("slow") / "new", change=lambda backend, seqlen: 1.2)


def edited(run, change):
    """The run with every row changed by `change`, as another program may have written it."""
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def commands_of(printed):
    """Lines that GitHub's runner would obey: it trims blanks ahead of `::`, and finds `##[` anywhere."""
    return [line for line in printed.splitlines() if line.lstrip().startswith("::") or "##[" in line]


@pytest.mark.parametrize("hostile", COMMANDS)
def test_no_name_and_no_reason_is_a_command(base, tmp_path, hostile):
    def crashed(row):
        row["backend"] += hostile
        if row["case"]["seqlen_q"] == 512:
            long = f"boom {hostile}{'y' * 60}"  # the table wraps it
            row.update(status="error", kind="crash", reason=long, accuracy=None, measurement=None)

    new = edited(new_run(tmp_path / "new", {**MACHINE, "machine": MACHINE["machine"] + hostile}), crashed)
    for arguments in (("gate", base, new, "--github"), ("compare", base, new, "--all"), ("gate", new, base)):
        done = call(*arguments)
        assert done.returncode in (0, 2, 3), done.stdout + done.stderr
        ours = [line for line in commands_of(done.stdout) if re.match(r"::(error|warning) title=[^:]*::", line)]
        assert commands_of(done.stdout) == ours and not commands_of(done.stderr)
        assert arguments[-1] != "--github" or len(ours) == 10
    by_machine = tmp_path / "by_machine" / "m1" / "1"
    write_run(by_machine, read(base / "1").records, MACHINE)
    assert commands_of(call("gate", tmp_path / "by_machine", new).stdout) == []


@pytest.mark.parametrize("hostile", (*COMMANDS, *MARKUP))
def test_junit_and_step_summary_hold_names_as_text(base, tmp_path, hostile):
    def renamed(row):
        row["backend"] += hostile

    new, summary = edited(new_run(tmp_path / "new"), renamed), tmp_path / "summary.md"
    call("gate", base, new, "--junit", tmp_path / "gate.xml", "--github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    names = {suite.get("name") for suite in root}
    assert {record.backend for record in read(new).records} <= names
    text = summary.read_text()
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(|[\x00\x1b]|\$x|(?<!\\)`", text)


def test_a_junit_file_that_cannot_be_written_changes_no_regression(base, slow, tmp_path):
    fine = new_run(tmp_path / "fine")
    for place in ("/proc/x.xml", tmp_path / "fine" / "records.jsonl", tmp_path):
        done = call("gate", base, slow, "--junit", place, "--github")
        assert done.returncode == 1 and "exit status 1: " in done.stdout
        assert any(line.startswith("::error title=slower") for line in done.stdout.splitlines())
        assert done.stderr.startswith("attnbench: ") and done.stderr.count("\n") == 1
        done = call("gate", base, fine, "--junit", place)
        assert done.returncode == 2 and "exit status 2: " in done.stdout and done.stderr.count("\n") == 1
    assert read(fine).problems == ()


def test_a_junit_file_of_somebody_s_stays(base, slow, tmp_path):
    path = tmp_path / "gate.xml"
    assert call("gate", base, slow, "--junit", path).returncode == 1
    assert path.read_text().splitlines()[1] == MARK
    assert call("gate", base, slow, "--junit", path).stderr == ""  # ours is replaced
    path.write_text("<mine/>")
    done = call("gate", base, slow, "--junit", path)
    assert done.returncode == 1 and "gate.xml was not written by attnbench gate" in done.stderr
    assert path.read_text() == "<mine/>"
    assert call("gate", base, slow, "--junit", path, "--overwrite").stderr == ""
    assert path.read_text().splitlines()[1] == MARK
