"""Compiles kernels/*.cu: one library per file, for Hopper by nvcc or as a CPU emulation by the host compiler.

A library is rebuilt when the content of anything it is made of changes: source, headers, flags, compiler version. A
JSON file beside it keeps what the build was (hash, seconds, compiler, what ptxas said, the variant table), so that the
reading half needs neither the compiler nor the library. Importing this module imports no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnbench.errors import UserError
from attnbench.hopper.sass import sass_facts
from attnbench.hopper.toolchain import (
    ARCH,
    BUILD,
    KERNELS,
    NVCC_FLAGS,
    PINNED_NVCC,
    Recipe,
    emulated_recipe,
    find_nvcc,
    hopper_recipe,
    source_digest,
)
from attnbench.machine_code.disassembler import ToolMissing, find_disassembler
from attnbench.machine_code.instructions import parse_sass

# Compilers at a time. A GPU machine is lent by the minute and has the cores; one compiler takes about 1 GB.
JOBS = len(os.sched_getaffinity(0))
# Lines of a compiler's errors that are shown; one mistake in a template makes thousands.
SHOWN_LINES = 20

# How g++, nvcc, ptxas and ld begin what stopped them.
_CAUSE = re.compile(r"\b(fatal|error|cannot find|undefined reference)\b", re.IGNORECASE)
# ptxas reports a wgmma pipeline that it has to serialize, or a setmaxnreg that it ignores, as a mere remark.
_SERIALIZATION = re.compile(r"^.*\(C75\d\d\).*$", re.MULTILINE)


class BuildError(UserError, RuntimeError):
    """A kernel that does not compile, or whose machine code breaks a rule; the message has the compiler's words."""


@dataclass(frozen=True)
class Build:
    """What a library was made of and how; the content of the JSON file beside it.

    log: what the compiler printed (ptxas -v: registers, spills, shared memory). variants: rows of the variant table
    (Hopper builds only: an emulated one may need a sanitizer's run time to load).
    compile_s: seconds the compiler took, 0 for nothing.
    """

    source: str
    library: str
    arch: str
    digest: str
    source_digest: str
    compiler: str
    flags: tuple[str, ...]
    compile_s: float
    log: str
    variants: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return Path(self.source).stem


def library_path(name: str) -> Path:
    """Where the Hopper library of a kernel file lies once it is built."""
    return BUILD / ARCH / f"{name}.so"


def build_facts() -> dict[str, Any]:
    """For `environment.json`: the version of nvcc (None without one), and each built library's SHA-256, shortened."""
    # Without what is being built at this moment (`_compile`), which may be gone before it is read.
    libraries = sorted(path for path in (BUILD / ARCH).glob("*.so") if path.suffixes == [".so"])
    hashes = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in libraries}
    try:
        nvcc = find_nvcc().version
    except ToolMissing:
        nvcc = None
    return {"nvcc": nvcc, "kernels": hashes}


def is_stale(build: Build) -> bool:
    """Whether a Hopper library was built from other sources than those that lie here. Needs no compiler."""
    source = KERNELS / build.source
    return not source.is_file() or source_digest([source], [KERNELS / "include"]) != build.source_digest


# Kernel files: one library each.
KERNEL_FILES = ("fwd_*.cu", "quantize.cu")


def kernel_sources(names: Sequence[str] = ()) -> list[Path]:
    """The kernel files, or those named by their stem (`fwd_ws`). Raises BuildError for an unknown name."""
    sources = {path.stem: path for pattern in KERNEL_FILES for path in sorted(KERNELS.glob(pattern))}
    unknown = [name for name in names if name not in sources]
    if unknown:
        raise BuildError(f'no kernel "{unknown[0]}" in {KERNELS}; there are {", ".join(sources) or "none"}')
    return [sources[name] for name in names] if names else list(sources.values())


def read_build(library: Path) -> Build | None:
    """The recorded build of a library; None when there is none or it cannot be read."""
    try:
        row = json.loads(library.with_suffix(".json").read_text())
        return Build(**{**row, "flags": tuple(row["flags"]), "variants": tuple(row["variants"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def compile_library(recipe: Recipe, force: bool = False) -> Build:
    """Builds a library unless it is there with the same hash. Safe against other processes that build it too.

    Raises BuildError with the compiler's words.
    """
    recipe.library.parent.mkdir(parents=True, exist_ok=True)
    with open(recipe.library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = recipe.digest()
        known = read_build(recipe.library)
        if not force and known is not None and known.digest == digest and recipe.library.is_file():
            return known
        return _compile(recipe, digest)


def _compile(recipe: Recipe, digest: str) -> Build:
    # NOTE: hashed before it is compiled: an edit meanwhile must make the library look old, not fresh.
    sources = source_digest((recipe.source, *recipe.more_sources), recipe.include_dirs)
    # NOTE: written beside and renamed, never in place: a process that has the old library mapped keeps its pages.
    partial = recipe.library.with_suffix(".partial.so")
    started = time.monotonic()
    done = subprocess.run(recipe.command(partial), capture_output=True, text=True)
    compile_s = time.monotonic() - started
    log = done.stdout + done.stderr
    if done.returncode != 0:
        raise BuildError(
            f"{recipe.source.name}: {_cause(log)} ({recipe.compiler} failed with exit status {done.returncode})\n"
            + _first_lines(log, recipe.library.with_suffix(".log"))
        )
    if recipe.arch == ARCH:
        _refuse_slow_code(recipe.source.name, log, partial)
    build = Build(
        source=recipe.source.name,
        library=str(recipe.library.name),
        arch=recipe.arch,
        digest=digest,
        source_digest=sources,
        compiler=recipe.compiler_version,
        flags=recipe.flags,
        compile_s=round(compile_s, 2),
        log=log,
        variants=_variant_rows(partial) if recipe.arch == ARCH else (),
    )
    record = recipe.sidecar.with_suffix(".partial.json")
    record.write_text(json.dumps(asdict(build), indent=1) + "\n")
    # The library first: a crash between the two leaves the old hash, and the next call compiles again.
    os.replace(partial, recipe.library)
    os.replace(record, recipe.sidecar)
    return build


def _cause(log: str) -> str:
    """The line that says why a build failed: compilers and linkers print what they have done ahead of it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if _CAUSE.search(line)), lines[0] if lines else "no word")


def _first_lines(log: str, kept: Path) -> str:
    """What a person reads of a compiler's output: from the cause on. All of it is written to `kept`."""
    kept.write_text(log)
    lines = log.splitlines()
    lines = lines[next((place for place, line in enumerate(lines) if _CAUSE.search(line)), 0) :]
    more = len(lines) - SHOWN_LINES
    return "\n".join([*lines[:SHOWN_LINES], *([f"... {more} more lines in {kept}"] if more > 0 else [])])


def _refuse_slow_code(name: str, log: str, library: Path) -> None:
    """Serialized wgmma and spills in a main loop cost several times the run time, and ptxas exits 0 on both."""
    lines = _SERIALIZATION.findall(log)
    if lines:
        raise BuildError(f"{name}: ptxas serializes wgmma or ignores setmaxnreg:\n" + "\n".join(lines))
    spilled = main_loop_spills(log, library)
    if spilled:
        raise BuildError(f"{name}: registers are spilled in the main loop:\n" + "\n".join(spilled))


def _variant_rows(library: Path) -> tuple[dict[str, Any], ...]:
    """The variant table; empty for a library that has none (the golden-vector probes)."""
    from attnbench.hopper.library import KernelLibrary, QuantizeLibrary, has_table

    if has_table(library, KernelLibrary.PREFIX):
        return tuple(asdict(variant) for variant in KernelLibrary(library).variants)
    if has_table(library, QuantizeLibrary.PREFIX):
        return tuple(asdict(variant) for variant in QuantizeLibrary(library).table())
    return ()


def build_all(
    names: Sequence[str] = (), jobs: int = JOBS, force: bool = False, report: Callable[[Build], None] | None = None
) -> list[Build]:
    """Compiles the kernel files for Hopper, `jobs` at a time. `report` gets each build as it is done.

    What the pinned nvcc made of these very sources stays, whatever nvcc is here, unless ATTNBENCH_NVCC names one.
    Tries every file, then raises BuildError with all that failed. Raises ToolMissing where there is something to
    compile and no nvcc.
    """
    sources = kernel_sources(names)
    kept = {} if force or os.environ.get("ATTNBENCH_NVCC") else _made_by_pinned_nvcc(sources)
    if report is not None:
        for one in kept.values():
            report(one)
    recipes = [hopper_recipe(source) for source in sources if source.name not in kept]
    builds = {one.source: one for one in _build_each(recipes, jobs, force, report)}
    return [kept.get(source.name) or builds[source.name] for source in sources]


def _made_by_pinned_nvcc(sources: Sequence[Path]) -> dict[str, Build]:
    """Builds by name of source, fresh and by the pinned nvcc: such as a machine with another nvcc was brought."""
    found = (read_build(library_path(source.stem)) for source in sources)
    return {
        one.source: one
        for one in found
        if one is not None
        and (one.compiler, one.flags) == (f"nvcc {PINNED_NVCC}", NVCC_FLAGS)
        and library_path(Path(one.source).stem).is_file()
        and not is_stale(one)
    }


def build_emulated(source: Path, **options: Any) -> Path:
    """Compiles one kernel file for the CPU and returns the library; options as in `emulated_recipe`."""
    recipe = emulated_recipe(source, **options)
    compile_library(recipe)
    return recipe.library


def _build_each(
    recipes: Sequence[Recipe], jobs: int, force: bool, report: Callable[[Build], None] | None
) -> list[Build]:
    from concurrent.futures import ThreadPoolExecutor

    builds, failures = [], []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for future in [pool.submit(compile_library, recipe, force) for recipe in recipes]:
            try:
                builds.append(future.result())
            except BuildError as error:
                failures.append(str(error))
                continue
            if report is not None:
                report(builds[-1])
    if failures:
        raise BuildError("\n".join(failures))
    return builds


# What `ptxas -v` printed of each kernel: registers, spills, shared memory; and the kernels that spill where it hurts.

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for")
_PROPERTIES = re.compile(r"Function properties for '?([^\s']+)'?")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:, used (\d+) barriers)?(?:.*?, (\d+) bytes smem)?")


@dataclass(frozen=True)
class PtxasFacts:
    """What `ptxas -v` printed of one kernel. Registers are per thread at entry, before setmaxnreg moves them."""

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    static_shared_bytes: int


def ptxas_facts(log: str) -> dict[str, PtxasFacts]:
    """Figures of every kernel in the output of `ptxas -v`, by symbol."""
    found: dict[str, PtxasFacts] = {}
    entry = described = None
    spills = (0, 0)
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry, spills = match.group(1), (0, 0)
        elif match := _PROPERTIES.search(line):
            described = match.group(1)
        elif (match := _STACK.search(line)) and described == entry:
            spills = (int(match.group(2)), int(match.group(3)))
        elif (match := _USED.search(line)) and entry is not None:
            found[entry] = PtxasFacts(int(match.group(1)), *spills, int(match.group(3) or 0))
    return found


def main_loop_spills(log: str, library: Path) -> list[str]:
    """A line for each kernel that reads or writes spilled registers in its main loop or between its wgmma.

    Where the machine code cannot be read, every kernel that spills at all is named: the place is unknown.
    """
    spilling = [name for name, facts in ptxas_facts(log).items() if facts.spill_store_bytes or facts.spill_load_bytes]
    if not spilling:
        return []
    try:
        functions = parse_sass(find_disassembler().sass(library))
    except ToolMissing as error:
        return [f"{name}: spills, and nothing here can tell where ({error})" for name in spilling]
    counts = {name: sass_facts(functions[name]).main_spills for name in spilling}
    return [f"{name}: {count} LDL/STL between wgmma or in the main loop" for name, count in counts.items() if count]
