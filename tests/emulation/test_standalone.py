"""The emulation without Python (standalone.cpp): on this processor, and on another one under QEMU where it is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from attnbench.hopper.toolchain import KERNELS, find_host_compiler

HERE = Path(__file__).parent
DRIVER = HERE / "standalone.cpp"
SCALAR = HERE.parent / "hopper" / "scalar_attention.cpp"
INCLUDES = [f"-I{KERNELS / 'emulation' / 'include'}", f"-I{KERNELS / 'include'}"]
# Debian's and Ubuntu's names: packages g++-aarch64-linux-gnu and qemu-user.
CROSS_COMPILER, CROSS_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu")


def compiled(compiler: str, source: Path, folder: Path, *flags: str) -> Path:
    output = folder / source.stem
    command = [compiler, "-x", "c++", "-O1", "-std=c++17", *flags, *INCLUDES, str(source), "-o", str(output), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def run(compiler: str, folder: Path, kernels: list[str], under: list[str]) -> str:
    """Output of the driver over the planted faults and the named kernels; fails where its exit status is not 0."""
    library = ("-shared", "-fPIC", "-fvisibility=hidden")
    driver = compiled(compiler, DRIVER, folder, "-Wall", "-Wextra", "-Werror")
    sources = [HERE / "hazards.cu", HERE / "cluster_hazards.cu", SCALAR, *(KERNELS / f"{name}.cu" for name in kernels)]
    libraries = [compiled(compiler, source, folder, *library) for source in sources]
    done = subprocess.run([*under, str(driver), *map(str, libraries)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_without_python(tmp_path: Path) -> None:
    output = run(str(find_host_compiler()), tmp_path, ["fwd_ws"], [])
    assert output.count("faults and sound kernels, 0 failures") == 2
    assert "fwd_ws: 12 launches, 0 failures" in output


@pytest.mark.full
def test_aarch64_under_qemu(tmp_path: Path) -> None:
    compiler, emulator = shutil.which(CROSS_COMPILER), shutil.which(CROSS_EMULATOR)
    if compiler is None or emulator is None:
        pytest.skip(f"not run: no {CROSS_COMPILER if compiler is None else CROSS_EMULATOR}")
    output = run(compiler, tmp_path, ["fwd_ws", "fwd_overlap"], [emulator, "-L", str(CROSS_LIBRARIES)])
    assert output.count("faults and sound kernels, 0 failures") == 2
    assert "fwd_overlap: " in output and " 0 failures" in output
