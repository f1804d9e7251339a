"""Where NVIDIA's disassemblers are. Never installs; a missing tool is an error that says the way out."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UserError

DISASSEMBLER_WHEELS = ("nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm")
# Where NVIDIA's installer puts the toolkit on Linux.
DEFAULT_CUDA_HOME = Path("/usr/local/cuda")
# Folder that all CUDA 13 wheels share under site-packages.
WHEEL_ROOT = Path("nvidia") / "cu13"


class ToolMissing(UserError, RuntimeError):
    """A tool that is not on this machine; the message names the ways to get it."""


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


def find_disassembler(environ: Mapping[str, str] = os.environ, sites: Iterable[Path] | None = None) -> Disassembler:
    """cuobjdump and nvdisasm from PATH, CUDA_HOME, the PyPI wheels or Triton's wheel. Raises ToolMissing."""
    cuobjdump = _tool("cuobjdump", environ, sites)
    nvdisasm = _tool("nvdisasm", environ, sites)
    if cuobjdump is None or nvdisasm is None:
        missing = [name for name, path in (("cuobjdump", cuobjdump), ("nvdisasm", nvdisasm)) if path is None]
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
