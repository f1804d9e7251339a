"""The container file, held against what README, pyproject and the Makefile say; nothing here builds it."""

import re
import subprocess
import tomllib

from container import FILE, copy_into, instructions
from paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
STEPS = instructions()


def only(name):
    return [rest for instruction, rest in STEPS if instruction == name]


def test_it_says_that_it_was_not_built():
    assert "Not built yet" in FILE.read_text()


def test_its_python_is_one_that_the_package_takes():
    (image,) = only("FROM")
    major, minor = map(int, re.fullmatch(r"python:(\d+)\.(\d+)-slim-bookworm", image).groups())
    least = tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()))
    assert (major, minor) >= least


def test_it_has_the_tools_that_readme_asks_for():
    packages = set(re.search(r"--no-install-recommends (.*?) &&", only("RUN")[0])[1].split())
    needed = re.search(r"with venv, ([\w+, ]+) and make", (ROOT / "README.md").read_text())[1].split(", ")
    assert {*needed, "make", "git"} <= packages


def test_it_installs_as_the_makefile_does(tmp_path):
    """The step is the Makefile's own, in a tree of the copied files alone, with variables that the Makefile has."""
    step = only("RUN")[1]
    assert step.startswith("make install ")
    for variable in re.findall(r"(\w+)=", step):
        assert re.search(rf"^{variable} [?:]?= ?", MAKEFILE, re.MULTILINE), variable
    defaults = dict(rest.split("=", 1) for rest in only("ARG"))
    copy_into(tmp_path)
    words = [f"{name}={defaults[name].strip(chr(34))}" for name in re.findall(r"(\w+)=", step)]
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "install", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "python3 -m venv .venv" and "install --quiet" in lines[1] and lines[1].endswith("-e .")
    assert "-c constraints-cpu.txt" in lines[1] and "touch .venv/.installed" in lines[3]
    usual = subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", "install", *words], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert [" ".join(line.split()) for line in usual.splitlines()] == [" ".join(line.split()) for line in lines]


def test_the_command_it_starts_is_where_it_installs_it():
    (path,) = [rest for rest in only("ENV") if rest.startswith("PATH=")]
    assert path.partition(":")[0] == f"PATH={only('WORKDIR')[0]}/.venv/bin"
    assert only("ENTRYPOINT") == ['["attnbench"]'] and "attnbench" in PROJECT["scripts"]


def test_copied_files_are_there_and_are_all_that_the_package_has(tmp_path):
    copy_into(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    elsewhere = setuptools["package-dir"]
    needed = {elsewhere.get(name, name.replace(".", "/")).split("/")[0] for name in setuptools["packages"]}
    assert needed | {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "Makefile"} <= names
    included = re.findall(r"^include (\S+)", MAKEFILE, re.MULTILINE)
    assert included and all((tmp_path / name).is_file() for name in included)
