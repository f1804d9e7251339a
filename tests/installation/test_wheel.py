"""A wheel, built from what the container copies, installed into an empty environment, does what a user does first."""

import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile

import pytest
from container import copy_into
from paths import ROOT

pytestmark = pytest.mark.wheel
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
TINY = """
groups: [{name: one, axes: {batch: 1, num_heads: 1, head_dim: 16, seqlen: 16}}]
timing: {min_samples: 5, min_time_s: 0.001, max_time_s: 0.05, warmup_s: 0.001}
"""
# The kernel file that compiles fastest.
KERNEL = "quantize"


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    copy_into(folder / "source")
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Calls the installed command from an empty folder. Libraries are those of the tests' environment, by a .pth."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    site = subprocess.run([python, "-c", SITE], capture_output=True, text=True, check=True).stdout.strip()
    with open(os.path.join(site, "shared.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    home = folder / "empty"
    home.mkdir()
    names = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "ATTNBENCH_NVCC")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(home), "OMP_NUM_THREADS": "1"}

    def call(*words):
        command = [folder / "env" / "bin" / "attnbench", *words]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=400)

    call.folder, call.python, call.home = folder, python, home
    return call


def test_it_holds_what_an_installation_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"attnbench/py.typed", "attnbench/suites/quick.yaml", "attnbench/kernels/fwd_simple.cu"} <= names
    assert not [name for name in names if name.startswith(("tests/", "results/", "benchmarks/"))]


def test_it_is_the_installed_one_that_answers(installed):
    code = "import attnbench; print(attnbench.__file__)"
    done = subprocess.run([installed.python, "-c", code], cwd=installed.home, capture_output=True, text=True)
    assert str(installed.folder) in done.stdout and str(ROOT) not in done.stdout, done.stderr


def test_it_lists(installed):
    for what, name in ((("list",), "naive "), (("list", "suites"), "quick "), (("list", "metrics"), "tflops ")):
        done = installed(*what)
        assert done.returncode == 0 and f"\n{name}" in f"\n{done.stdout}", done.stdout + done.stderr


def test_it_runs_a_case_and_reports_it(installed):
    (installed.home / "tiny.yaml").write_text(TINY)
    done = installed("run", "tiny.yaml", "--backend", "naive", "--device", "cpu", "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((installed.home / "run" / "records.jsonl").read_text().splitlines()) == 1
    done = installed("report", "run", "-o", "report.md")
    assert done.returncode == 0 and (installed.home / "report.md").is_file(), done.stderr


def test_it_builds_kernels_in_the_users_cache(installed, nvcc):
    before = time.time()
    done = installed("kernels", "build", KERNEL)
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((installed.folder / "cache" / "attnbench" / "kernels").rglob(f"{KERNEL}.so"))
    assert len(built) == 1 and built[0].stat().st_mtime >= before - 1
