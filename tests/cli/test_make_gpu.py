"""`make gpu-short`: which steps run, in which order, and what a failed or unfinished one does.

The interpreter only writes down what it is asked for.
"""

import os
import re
import subprocess

import pytest
from paths import ROOT

# Fails where $STOPS matches the command, ends as if killed where $KILLED does; an unfinished run is one whose command
# matches $UNFINISHED. Prints $SAYS.
INTERPRETER = r"""#!/bin/bash
if [ "$1" = -c ]; then echo '--backend "hopper"'; exit 0; fi
echo "$*" >> "$ASKED"
if [ -n "${SAYS:-}" ]; then echo "$SAYS"; fi
if [ -n "${KILLED:-}" ] && [[ "$*" =~ $KILLED ]]; then exit 137; fi
if [ -n "${STOPS:-}" ] && [[ "$*" =~ $STOPS ]]; then exit 1; fi
if [[ "$*" =~ --out\ ([^ ]*) ]] && [[ "$*" == *" run "* ]]; then
    mkdir -p "${BASH_REMATCH[1]}"; touch "${BASH_REMATCH[1]}/records.jsonl"
fi
if [ -n "${UNFINISHED:-}" ] && [[ "$*" =~ $UNFINISHED ]]; then echo "incomplete: the budget was used up"; exit 3; fi
"""
FIRST = ("-m gpu --no-skips tests/golden", "contact.yaml", "-m gpu --no-skips tests/hopper",
         "-m gpu --ignore tests/hopper")  # fmt: skip
ORDER = ("kernels build", *FIRST, "h100.yaml", "ablation.yaml", "h100.yaml", "cli.sanitize", "edges.yaml",
         "kernels inspect")  # fmt: skip


class Machine:
    """A folder in which make leaves its marks, and the commands that the interpreter was asked for."""

    def __init__(self, folder):
        self.folder, self.asked = folder, folder / "asked"
        self.python = folder / "python"
        self.python.write_text(INTERPRETER)
        self.python.chmod(0o755)

    def make(self, *arguments, **environment):
        """Exit status and output of one call, and what was asked for in it."""
        self.asked.write_text("")
        places = {"PYTHON": self.python, "GPU_RUNS": self.folder / "runs"}
        places |= {"WHEELS": "/nothing", "LIBRARIES": "/nothing"}
        variables = [f"{name}={place}" for name, place in places.items()]
        environment = {**os.environ, "ASKED": str(self.asked), **environment}
        environment.pop("MAKEFLAGS", None)
        done = subprocess.run(
            ["make", "-C", str(ROOT), *arguments, *variables],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout, self.asked.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def assert_in_order(asked, words):
    assert len(asked) == len(words), "\n".join(asked)
    for line, word in zip(asked, words):
        assert word in line


def test_every_step_once(machine):
    status, output, asked = machine.make("gpu-short")
    assert status == 0, output
    assert_in_order(asked, ORDER)
    assert all("--device cuda" in line and re.search(r"--budget \d+s", line) for line in asked if " run " in line)
    status, output, asked = machine.make("gpu-short")
    assert (status, asked) == (0, []), output


def test_a_failed_step_does_not_hold_up_the_others(machine):
    status, output, asked = machine.make("gpu-short", STOPS="-m gpu --no-skips tests/golden|contact")
    assert status != 0 and "failed: contact golden" in output
    assert_in_order(asked, ORDER)
    status, output, asked = machine.make("gpu-short")
    assert status != 0 and asked == []
    assert "golden failed before: make gpu STEP=golden repeats it" in output
    assert machine.make("gpu", "STEP=golden")[0] == 0
    assert machine.make("gpu", "STEP=contact")[0] == 0
    assert machine.make("gpu-short")[0] == 0


def test_tests_that_fail_do_not_hold_up_the_others_and_are_kept(machine):
    status, output, asked = machine.make("gpu", "STEP=tests", STOPS="tests/hopper$")
    assert status != 0 and len(asked) == 2, output
    assert machine.make("gpu", "STEP=tests", SAYS="test_one PASSED")[0] == 0
    assert (machine.folder / "runs" / "tests.log").read_text() == "test_one PASSED\n" * 2


def test_a_process_that_must_be_killed_is_only_not_finished(machine):
    status, output, _ = machine.make("gpu", "STEP=paper", KILLED="h100.yaml")
    assert status != 0 and "not finished: make gpu STEP=paper goes on" in output
    assert not list((machine.folder / "runs" / ".done").glob("*.failed"))


def test_an_unfinished_step_goes_on(machine):
    status, output, asked = machine.make("gpu-short", UNFINISHED="ablation")
    assert status != 0 and "not finished: ablation; the same command goes on" in output
    assert len(asked) == len(ORDER)
    status, output, asked = machine.make("gpu-short")
    assert status == 0, output
    assert len(asked) == 1 and "ablation.yaml" in asked[0] and "--resume" in asked[0]


@pytest.mark.parametrize("step", ["fp8-error-long", "fp8-error"])
def test_each_half_of_the_fp8_errors_goes_on(machine, step):
    status, output, asked = machine.make("gpu", f"STEP={step}", UNFINISHED="fp8_error")
    assert status != 0 and "not finished" in output and "--out" in asked[0]
    status, output, asked = machine.make("gpu", f"STEP={step}")
    assert status == 0, output
    assert len(asked) == 1 and f"--resume {machine.folder}/runs/{step}" in asked[0]


def test_without_libraries_it_stops(machine):
    status, _, asked = machine.make("gpu-short", STOPS="kernels build")
    assert status != 0
    assert_in_order(asked, ORDER[:1])


def test_when_time_is_up(machine):
    status, output, asked = machine.make("gpu-short", "MINUTES=1")
    assert status != 0 and asked == []
    assert "time is up before build: the same command goes on" in output


def test_all_steps_keep_their_order(machine):
    status, output, asked = machine.make("gpu")
    assert status == 0, output
    assert_in_order(asked[:6], ("kernels build", "kernels inspect", *FIRST))
    assert sum("h100.yaml --only group=" in line for line in asked) == 13
    assert sum("suites/fp8_error_long.yaml" in line and "hopper_fp8[two_level]" in line for line in asked) == 1
    runs = [line for line in asked if " run " in line]
    assert len(runs) > 20 and all(line.count(".yaml") == 1 for line in runs), "--resume continues one suite"
    assert sum("suites/fa3_error_table.yaml" in line for line in asked) == 1
    assert "--only dtype=bf16" in asked[-1]
