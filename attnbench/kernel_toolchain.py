"""Where the compilers and disassemblers are. Never installs; a missing tool is an error that says the way out."""

from __future__ import annotations

import functools
import os
import re
import shutil
import site
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UserError

# The nvcc whose machine code the limits and kernels/static.json were made with.
PINNED_NVCC = "13.0.88"
# The wheels that together hold a working nvcc (they need a host g++).
NVCC_WHEELS = (
    "nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-runtime==13.0.*", "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88", "nvidia-cuda-cccl==13.0.*",
)  # fmt: skip
DISASSEMBLER_WHEELS = ("nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm")
# Where NVIDIA's installer puts the toolkit on Linux.
DEFAULT_CUDA_HOME = Path("/usr/local/cuda")
# Folder that all CUDA 13 wheels share under site-packages.
WHEEL_ROOT = Path("nvidia") / "cu13"


class ToolMissing(UserError, RuntimeError):
    """A tool that is not on this machine; the message names the ways to get it."""


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler. library_dirs: what the linker must be told beyond nvcc's own profile."""

    path: Path
    version: str
    library_dirs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Disassembler:
    """cuobjdump, and the folder of the nvdisasm that it runs (it looks on PATH only)."""

    cuobjdump: Path
    nvdisasm: Path

    def sass(self, library: Path, kernel: str | None = None) -> str:
        """Machine code of one kernel, or of every kernel, in a library or cubin, as cuobjdump prints it.

        Raises RuntimeError with the tool's own words when it fails.
        """
        path = os.pathsep.join((str(self.nvdisasm.parent), os.environ.get("PATH", "")))
        chosen = () if kernel is None else ("-fun", kernel)
        command = [str(self.cuobjdump), "-sass", *chosen, str(library)]
        done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"cuobjdump failed on {library}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def site_folders() -> tuple[Path, ...]:
    """Folders that pip installs into for this interpreter."""
    folders = [sysconfig.get_path("purelib"), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(dict.fromkeys(Path(folder) for folder in folders))


def cuda_homes(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a CUDA toolkit may be: the place that the environment names, else the one that its installer uses."""
    home = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    return (Path(home),) if home else (DEFAULT_CUDA_HOME,)


def find_nvcc(environ: Mapping[str, str] = os.environ, sites: Iterable[Path] | None = None) -> Nvcc:
    """The first nvcc of: ATTNBENCH_NVCC, PATH, CUDA_HOME, /usr/local/cuda, the PyPI wheels. Raises ToolMissing.

    A set ATTNBENCH_NVCC that is no file is an error, never skipped.
    """
    chosen = environ.get("ATTNBENCH_NVCC")
    if chosen:
        if not Path(chosen).is_file():
            raise ToolMissing(f"ATTNBENCH_NVCC={chosen} is not a file")
        return _nvcc(Path(chosen))
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        return _nvcc(Path(on_path))
    for home in cuda_homes(environ):
        if (home / "bin" / "nvcc").is_file():
            return _nvcc(home / "bin" / "nvcc")
    for folder in site_folders() if sites is None else sites:
        root = folder / WHEEL_ROOT
        if (root / "bin" / "nvcc").is_file():
            return _nvcc(root / "bin" / "nvcc", (root / "lib",))
    raise ToolMissing(
        "no nvcc: looked at ATTNBENCH_NVCC, PATH, CUDA_HOME, /usr/local/cuda and site-packages/nvidia/cu13. "
        f"Install CUDA 13, or: pip install --no-deps {' '.join(NVCC_WHEELS)}"
    )


def _nvcc(path: Path, library_dirs: tuple[Path, ...] = ()) -> Nvcc:
    return Nvcc(path, _nvcc_version(path), library_dirs)


@functools.cache
def _nvcc_version(path: Path) -> str:
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, text=True)
    except OSError as error:
        raise ToolMissing(f"{path} does not run: {error}") from None
    found = re.search(r"\bV(\d+\.\d+\.\d+)", done.stdout)
    if done.returncode != 0 or not found:
        raise ToolMissing(f"{path} --version says nothing about a version: {(done.stdout + done.stderr).strip()!r}")
    return found.group(1)


def find_disassembler(environ: Mapping[str, str] = os.environ, sites: Iterable[Path] | None = None) -> Disassembler:
    """cuobjdump and nvdisasm from PATH, CUDA_HOME, the PyPI wheels or Triton's wheel. Raises ToolMissing."""
    cuobjdump = _tool("cuobjdump", environ, sites)
    nvdisasm = _tool("nvdisasm", environ, sites)
    missing = [name for name, path in (("cuobjdump", cuobjdump), ("nvdisasm", nvdisasm)) if path is None]
    if missing:
        raise ToolMissing(f"no {' and no '.join(missing)}: pip install --no-deps {' '.join(DISASSEMBLER_WHEELS)}")
    return Disassembler(cuobjdump, nvdisasm)


def _tool(name: str, environ: Mapping[str, str], sites: Iterable[Path] | None) -> Path | None:
    on_path = shutil.which(name, path=environ.get("PATH", ""))
    if on_path:
        return Path(on_path)
    folders = [home / "bin" for home in cuda_homes(environ)]
    for folder in site_folders() if sites is None else sites:
        folders += [folder / WHEEL_ROOT / "bin", folder / "triton" / "backends" / "nvidia" / "bin"]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def find_host_compiler(environ: Mapping[str, str] = os.environ) -> Path:
    """The C++ compiler of the emulated build: CXX, else g++ on PATH. Raises ToolMissing."""
    found = shutil.which(environ.get("CXX") or "g++", path=environ.get("PATH", ""))
    if found is None:
        raise ToolMissing(f"no C++ compiler: {environ.get('CXX') or 'g++'} is not on PATH (install g++, or set CXX)")
    return Path(found)
