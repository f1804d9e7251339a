"""Which kernel file holds which schedule, and the built library behind it.

Importing this module is instant (`attnbench list` does); what looks at libraries is imported where it is used.

A schedule is what a suite names in brackets: `hopper[ws]`; `hopper` alone is DEFAULT_SCHEDULE, `hopper_fp8` alone
DEFAULT_FP8_SCHEDULE. The tables are fixed here, so that backends can be listed where nothing is built; a test holds
them against the variant tables of the libraries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from attnbench.kernel_build import Build
    from attnbench.kernel_inspect import KernelFacts
    from attnbench.kernel_library import KernelLibrary, Variant

DEFAULT_SCHEDULE = "overlap"
# Schedule -> stem of its file under kernels/.
SCHEDULES: Mapping[str, str] = {
    "overlap": "fwd_overlap",
    "simple": "fwd_simple",
    "ws": "fwd_ws",
    "pingpong": "fwd_pingpong",
    # The ablation of the FlashAttention-3 paper (arXiv 2407.08608, table 2): one idea taken away at a time.
    "no_ws": "fwd_no_ws",
    "no_overlap": "fwd_overlap",
    # Choices that hardware has to make; bf16 only.
    "n128": "fwd_overlap",
    "m128": "fwd_overlap",
    "softmax_turns": "fwd_overlap",
    "no_turns": "fwd_overlap",
}


@dataclass(frozen=True)
class Fp8Schedule:
    """Stem of the file under kernels/, and how its products are summed (attnbench.reference.fp8)."""

    file: str
    accumulator: str


DEFAULT_FP8_SCHEDULE = "fp8"
FP8_SCHEDULES: Mapping[str, Fp8Schedule] = {
    "fp8": Fp8Schedule("fwd_fp8", "hopper"),
    "fp8_two_level": Fp8Schedule("fwd_fp8", "two_level"),
}
# All of them.
FILES: Mapping[str, str] = {**SCHEDULES, **{name: schedule.file for name, schedule in FP8_SCHEDULES.items()}}
WAY_OUT = "build it: attnbench kernels build"


@dataclass(frozen=True)
class BuiltKernel:
    """A library on disk with the record of its build."""

    path: Path
    build: Build
    _facts: dict[int, KernelFacts] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def library(self) -> KernelLibrary:
        from attnbench.kernel_library import KernelLibrary

        return KernelLibrary(self.path)

    @functools.cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The variant table as recorded when it was built; the library is not loaded for it."""
        from attnbench.kernel_library import Variant

        return tuple(Variant.from_row(row) for row in self.build.variants)

    def facts(self, variant: Variant) -> KernelFacts:
        """Static figures of one variant, read once: disassembling takes about a second."""
        if variant.index not in self._facts:
            from attnbench.kernel_inspect import inspect_build

            (self._facts[variant.index],) = inspect_build(self.build, self.path, variant)
        return self._facts[variant.index]


def missing_library(name: str) -> str | None:
    """Why the library of kernels/NAME.cu cannot be used, with the way out; None when it is there and fresh."""
    from attnbench.kernel_build import is_stale, library_path, read_build

    path = library_path(name)
    build = read_build(path)
    if build is None or not path.is_file():
        return f"kernels/{name}.cu is not built; {WAY_OUT}"
    if is_stale(build):
        return f"the library of kernels/{name}.cu is older than its source; {WAY_OUT}"
    return None


def missing(schedule: str) -> str | None:
    """Why the library of a schedule cannot be used, with the way out; None when it is there and fresh."""
    from attnbench.kernel_build import library_path, read_build

    name = FILES[schedule]
    reason = missing_library(name)
    if reason is not None:
        return reason
    build = read_build(library_path(name))
    if build is None or all(row["schedule"] != schedule for row in build.variants):
        return f'kernels/{name}.cu has no variant "{schedule}"'
    return None


@functools.cache
def built_kernel(schedule: str) -> BuiltKernel:
    """The built library of a schedule, looked up once per process. Raises KernelError where it is `missing`."""
    from attnbench.kernel_build import library_path, read_build
    from attnbench.kernel_library import KernelError

    if schedule not in FILES:
        raise KernelError(f'no schedule "{schedule}"; there are {", ".join(FILES)}')
    reason = missing(schedule)
    if reason is not None:
        raise KernelError(reason)
    path = library_path(FILES[schedule])
    return BuiltKernel(path, read_build(path))
