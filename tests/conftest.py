"""What tests share: the command line as a user calls it, and suites that take no time."""

import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT

# NOTE: set before torch is imported by anyone, here and in the processes that tests start. Tensors in tests are tiny: a
# second OpenMP thread only spins, and on a busy machine slows them down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# NOTE: a shell starts background jobs with SIGINT ignored, and processes inherit that; tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Enough to run every step of timing once.
TIMING = "{min_samples: 10, min_time_s: 0.001, max_time_s: 0.05, warmup_s: 0.001, cache: warm}"


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips", action="store_true", help="A skipped test fails, where everything must have run (make gpu)."
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if item.config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", str(call.excinfo.value)
    return report


def pytest_terminal_summary(terminalreporter):
    """Shows what a passed test recorded as its "summary"; a process of pytest-xdist has no terminal to print it to."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "summary" and report.when == "call":
                terminalreporter.write_line(text)


@pytest.fixture(autouse=True)
def no_terminal():
    """Lines as they are where no terminal is: who runs the tests may have one, and pytest-xdist says 80."""
    os.environ.pop("COLUMNS", None)  # NOTE: no monkeypatch: what tests patch would outlive the fixtures that they use


class CommandLine:
    """`python -m attnbench` in a process of its own, from a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *arguments, **options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **options.pop("env", {})}
        return subprocess.Popen(
            [sys.executable, "-m", "attnbench", *map(str, arguments)],
            cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def __call__(self, *arguments, timeout_s=240, **options):
        """The finished process: returncode, stdout, stderr."""
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def suite(self, axes, name="tiny", rest="", timing=TIMING):
        """The path of a suite with one group of these axes."""
        path = self.folder / f"{name}.yaml"
        path.write_text(f"name: {name}\n{rest}groups:\n  - name: all\n    axes: {{{axes}}}\ntiming: {timing}\n")
        return path


@pytest.fixture
def command(tmp_path):
    return CommandLine(tmp_path)


@pytest.fixture(scope="module")
def module_command(tmp_path_factory):
    return CommandLine(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def nvcc():
    from attnbench.hopper.toolchain import find_nvcc

    return found_tool(find_nvcc)


@pytest.fixture(scope="session")
def disassembler():
    from attnbench.machine_code.disassembler import find_disassembler

    return found_tool(find_disassembler)


def found_tool(find):
    """What `find` finds; where it is missing, the test is not run."""
    from attnbench.machine_code.disassembler import ToolMissing

    try:
        return find()
    except ToolMissing as error:
        pytest.skip(f"not run: {error}")
