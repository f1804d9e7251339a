"""The GitHub Action: its script as a runner calls it, and what its description promises."""

import os
import re
import stat
import subprocess
import sys

import pytest
import yaml
from paths import ROOT

FOLDER = ROOT / ".ci" / "action"
ACTION = yaml.safe_load((FOLDER / "action.yml").read_text())
MEASURE = FOLDER / "measure"
# Writes down what it is called with, one call a line; ends as STATUS_<verb> says, and makes records as a run does.
FAKE = """#!/bin/sh
echo "$*" >> "$CALLS"
verb=$1
if [ "$verb" = run ]; then
    while [ $# -gt 1 ]; do if [ "$1" = --out ]; then mkdir -p "$2" && : > "$2/records.jsonl"; fi; shift; done
fi
eval "exit \\${STATUS_$verb:-0}"
"""


@pytest.fixture
def measure(tmp_path):
    """Runs the script with a made-up attnbench: (exit status, its calls, the step's outputs)."""
    fake = tmp_path / "attnbench"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def call(inputs=None, attnbench=fake, **statuses):
        given = {name.upper(): str(one.get("default", "")) for name, one in ACTION["inputs"].items()}
        given |= {name.upper(): value for name, value in (inputs or {}).items()}
        files = {"CALLS": str(tmp_path / "calls"), "GITHUB_OUTPUT": str(tmp_path / "output")}
        environment = {**os.environ, "ATTNBENCH": str(attnbench), **given, **files}
        environment |= {f"STATUS_{verb}": str(status) for verb, status in statuses.items()}
        done = subprocess.run([MEASURE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        calls = tmp_path / "calls"
        outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
        return done, calls.read_text().splitlines() if calls.exists() else [], outputs

    return call


def test_a_run_and_a_report_without_a_baseline(measure):
    done, calls, outputs = measure({"plugin": "mine.py:mine\nother.py:f", "options": "--no-time\n"})
    assert done.returncode == 0, done.stderr
    assert calls == [
        "run quick --plugin mine.py:mine --plugin other.py:f --no-time --out attnbench-run",
        "report attnbench-run -o attnbench-run-report/report.md",
    ]
    assert outputs == {"run": "attnbench-run", "report": "attnbench-run-report", "status": "0"}


def test_with_a_baseline_the_gate_has_its_say(measure):
    _, calls, _ = measure({"baseline": "base", "margin": "2%", "out": "new"})
    assert calls[2:] == ["gate base new --margin 2% --junit new-report/gate.xml --github"]


@pytest.mark.parametrize(
    ("run", "gate", "status"),
    [(0, 0, 0), (0, 1, 1), (0, 3, 3), (1, 0, 1), (1, 3, 1), (3, 0, 3), (3, 1, 1), (3, 3, 3), (0, 2, 2), (0, 4, 4)],
)
def test_the_graver_status_counts(measure, run, gate, status):
    done, calls, outputs = measure({"baseline": "base"}, run=run, gate=gate)
    assert (done.returncode, outputs["status"]) == (status, str(status)) and len(calls) == 3


@pytest.mark.parametrize("status", [2, 70, 130])
def test_what_no_report_can_follow_ends_at_once(measure, status):
    done, calls, outputs = measure({"baseline": "base"}, run=status)
    assert (done.returncode, len(calls), outputs["status"]) == (status, 1, str(status))


def test_a_report_that_fails_hides_no_status(measure):
    done, _, _ = measure(run=1, report=2)
    assert done.returncode == 1 and "::warning::the report could not be written" in done.stdout


def test_no_input_becomes_a_command(measure, tmp_path):
    evil = f'$(touch {tmp_path}/owned)"; touch {tmp_path}/owned; `touch {tmp_path}/owned`'
    measure({"suite": evil, "plugin": evil, "options": evil, "baseline": evil, "margin": evil})
    assert not (tmp_path / "owned").exists()


def test_the_real_program(measure, tmp_path):
    """One tiny case, from the script to records and a report."""
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m attnbench "$@"\n')
    program.chmod(0o755)
    options = "--axis\nhead_dim=16\n--axis\nseqlen=16\n--backend\nnaive\n--device\ncpu\n--no-time"
    done, _, outputs = measure({"suite": "", "options": options}, attnbench=program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / outputs["run"] / "records.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / outputs["report"] / "report.md").read_text().startswith("<!-- Written by attnbench report")


def test_the_inputs_are_documented_with_their_defaults():
    table = (ROOT / "docs" / "how-to" / "ci.md").read_text().partition("## The action")[2].partition("\n## ")[0]
    rows = {row[0]: row[2] for row in re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", table, re.MULTILINE)}
    assert list(rows) == list(ACTION["inputs"])
    for name, value in ACTION["inputs"].items():
        assert rows[name].startswith(f"`{value['default']}`" if value["default"] else "none"), name
    assert all(f"`{name}`" in table for name in ACTION["outputs"])


def test_the_description_fits_the_script():
    install, step = ACTION["runs"]["steps"]
    assert ACTION["runs"]["using"] == "composite" and os.stat(MEASURE).st_mode & stat.S_IXUSR
    given = {**install["env"], **step["env"]}
    for name in ACTION["inputs"]:
        assert f"${{{{ inputs.{name} }}}}" in given.values(), f"{name} goes nowhere"
    for part in (install, step):
        assert "${{" not in part["run"], "an input in the text of a script would be code"
        assert part["shell"] == "bash"
    text = MEASURE.read_text()
    assert set(step["env"]) == set(re.findall(r"\$\{?([A-Z]{3,})\b", text)) - {"GITHUB_OUTPUT"}
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.measure.outputs.{name} }}}}" and f'"{name}=' in text
    assert (FOLDER / ".." / ".." / "pyproject.toml").resolve() == ROOT / "pyproject.toml"
