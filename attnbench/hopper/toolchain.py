"""Where the compilers are, and how a kernel file is compiled.

Never installs; a missing tool is an error that says the way out. Compiles nothing; imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.machine_code.disassembler import WHEEL_ROOT, ToolMissing, cuda_homes, site_folders
from attnbench.paths import build_folder, shipped_folder

# The nvcc whose machine code the limits and kernels/static.json were made with.
PINNED_NVCC = "13.5.37"
# The wheels that together hold a working nvcc (they need a host g++).
NVCC_WHEELS = (
    "nvidia-cuda-nvcc==13.5.37", "nvidia-cuda-runtime==13.5.*", "nvidia-cuda-crt==13.5.37",
    "nvidia-nvvm==13.5.37", "nvidia-cuda-cccl==13.3.5.*",
)  # fmt: skip


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler. library_dirs: what the linker must be told beyond nvcc's own profile."""

    path: Path
    version: str
    library_dirs: tuple[Path, ...] = ()


def find_nvcc(environ: Mapping[str, str] = os.environ, sites: Iterable[Path] | None = None) -> Nvcc:
    """The first nvcc of: ATTNBENCH_NVCC, the pinned one from PyPI, PATH, CUDA_HOME, /usr/local/cuda, any from PyPI.

    The pinned one before others, since limits and figures are its own, and it makes the shorter FP8 loops. Raises
    ToolMissing; a set ATTNBENCH_NVCC that is no file is an error, never skipped.
    """
    chosen = environ.get("ATTNBENCH_NVCC")
    if chosen:
        if not Path(chosen).is_file():
            raise ToolMissing(f"ATTNBENCH_NVCC={chosen} is not a file")
        return _nvcc(Path(chosen))
    places = (folder / WHEEL_ROOT / "bin" / "nvcc" for folder in (site_folders() if sites is None else sites))
    wheels = [path for path in places if path.is_file()]
    for path in wheels:
        if _nvcc_version(path) == PINNED_NVCC:
            return _nvcc(path)
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        return _nvcc(Path(on_path))
    for home in cuda_homes(environ):
        if (home / "bin" / "nvcc").is_file():
            return _nvcc(home / "bin" / "nvcc")
    if wheels:
        return _nvcc(wheels[0])
    raise ToolMissing(
        "no nvcc: looked at ATTNBENCH_NVCC, PATH, CUDA_HOME, /usr/local/cuda and site-packages/nvidia/cu13. "
        f"Install CUDA 13, or: pip install --no-deps {' '.join(NVCC_WHEELS)}"
    )


def _nvcc(path: Path) -> Nvcc:
    """NOTE: nvcc's own profile looks for the run time in lib64; the wheels' nvcc, wherever it lies, has it in lib."""
    root = path.resolve().parent.parent
    in_lib = (root / "lib" / "libcudart_static.a").is_file() and not (root / "lib64").is_dir()
    return Nvcc(path, _nvcc_version(path), (root / "lib",) if in_lib else ())


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


def find_host_compiler(environ: Mapping[str, str] = os.environ) -> Path:
    """The C++ compiler of the emulated build: CXX, else g++ on PATH. Raises ToolMissing."""
    found = shutil.which(environ.get("CXX") or "g++", path=environ.get("PATH", ""))
    if found is None:
        raise ToolMissing(f"no C++ compiler: {environ.get('CXX') or 'g++'} is not on PATH (install g++, or set CXX)")
    return Path(found)


# How a kernel file is compiled, and the hash of all that decides the result. Compiles nothing; imports no torch.

KERNELS = shipped_folder("kernels")
BUILD = build_folder("kernels")
ARCH = "sm_90a"
EMULATED = "emulated"

# -cudart static and no -lcuda: a library loads on a machine without a driver. sm_90a: wgmma and setmaxnreg exist for
# the architecture-specific target only. -lineinfo: compute-sanitizer and profilers name source lines; same code.
NVCC_FLAGS = (
    "-O3", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-shared", "-cudart", "static",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-Xptxas=-v", "-lineinfo",
)  # fmt: skip
HOST_FLAGS = (
    "-x",
    "c++",
    "-O3",
    "-std=c++17",
    "-march=native",
    "-fno-trapping-math",  # no flag of a floating-point exception is read: loops with comparisons become vectors
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-pthread",
)

_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """One compilation before it is done. include_dirs in the order in which the compiler searches them."""

    source: Path
    library: Path
    arch: str
    compiler: Path
    compiler_version: str
    flags: tuple[str, ...]
    include_dirs: tuple[Path, ...]
    more_sources: tuple[Path, ...] = ()
    library_dirs: tuple[Path, ...] = ()

    @property
    def sidecar(self) -> Path:
        return self.library.with_suffix(".json")

    def command(self, output: Path) -> list[str]:
        includes = [f"-I{folder}" for folder in self.include_dirs]
        sources = [str(self.source), *map(str, self.more_sources)]
        libraries = [f"-L{folder}" for folder in self.library_dirs]
        return [str(self.compiler), *self.flags, *includes, *libraries, *sources, "-o", str(output)]

    def digest(self) -> str:
        """Hash of everything that decides the result; no path of this machine is in it."""
        text = (source_digest((self.source, *self.more_sources), self.include_dirs), self.arch, self.compiler_version)
        return hashlib.sha256("\0".join((*text, *self.flags)).encode()).hexdigest()[:16]


def included_files(source: Path, include_dirs: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """(name as included, content) of a source and of every header of ours that it reaches, each once.

    Headers found in no include folder are the compiler's own and stand behind its version.
    """
    folders = tuple(include_dirs)
    waiting, seen = [(source.name, source)], set()
    while waiting:
        name, path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        content = path.read_bytes()
        yield name, content
        for included in _INCLUDE.findall(content.decode(errors="replace")):
            candidates = (folder / included for folder in (path.parent, *folders))
            found = next((candidate for candidate in candidates if candidate.is_file()), None)
            if found is not None:
                waiting.append((included, found.resolve()))


def source_digest(sources: Iterable[Path], include_dirs: Iterable[Path]) -> str:
    """Hash of the content of the sources and of every header of ours that they reach."""
    parts = hashlib.sha256()
    folders = tuple(include_dirs)
    for source in sources:
        for name, content in included_files(source, folders):
            parts.update(name.encode() + b"\0" + content + b"\0")
    return parts.hexdigest()[:16]


def hopper_recipe(source: Path, build_dir: Path = BUILD, include_dirs: Sequence[Path] = ()) -> Recipe:
    """How a kernel file is compiled for sm_90a. Raises ToolMissing without an nvcc."""
    nvcc = find_nvcc()
    return Recipe(
        source=source,
        library=build_dir / ARCH / f"{source.stem}.so",
        arch=ARCH,
        compiler=nvcc.path,
        compiler_version=f"nvcc {nvcc.version}",
        flags=NVCC_FLAGS,
        include_dirs=(*include_dirs, KERNELS / "include"),
        library_dirs=nvcc.library_dirs,
    )


def emulated_recipe(
    source: Path,
    build_dir: Path = BUILD,
    more_sources: Sequence[Path] = (),
    flags: Sequence[str] = (),
    include_dirs: Sequence[Path] = (),
) -> Recipe:
    """How the same file is compiled for the CPU. `flags` come after the standard ones; give each set its build_dir."""
    compiler = find_host_compiler()
    version = subprocess.run([str(compiler), "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    return Recipe(
        source=source,
        library=build_dir / EMULATED / f"{source.stem}.so",
        arch=EMULATED,
        compiler=compiler,
        compiler_version=f"{version}; {_processor()}",
        flags=(*HOST_FLAGS, *flags),
        include_dirs=(*include_dirs, KERNELS / "emulation" / "include", KERNELS / "include"),
        more_sources=tuple(more_sources),
    )


def _processor() -> str:
    """What -march=native depends on: a build folder that moves to another processor is rebuilt."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(" ".join(sorted(line.split())).encode()).hexdigest()[:16]
    return os.uname().machine
