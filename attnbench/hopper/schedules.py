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
from typing import TYPE_CHECKING, Any

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    from pathlib import Path

    from attnbench.hopper.build import Build
    from attnbench.hopper.forward import BoundForward
    from attnbench.hopper.inspect import KernelFacts
    from attnbench.hopper.library import ForwardArgs, KernelLibrary, Variant


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
    "no_turns": "fwd_overlap",
    "no_polynomial": "fwd_overlap",
    # Two CTAs share the keys of neighbouring query tiles: head_dim 128 and 256, not causal.
    "multicast": "fwd_multicast",
}
# Schedules whose two CTAs take the same number of key tiles.
UNMASKED_ONLY = frozenset({"multicast"})


@dataclass(frozen=True)
class Fp8Schedule:
    """Stem of the file under kernels/, and how its products are summed (attnbench.reference.fp8)."""

    file: str
    accumulator: str


DEFAULT_FP8_SCHEDULE = "fp8"
FP8_SCHEDULES: Mapping[str, Fp8Schedule] = {
    "fp8": Fp8Schedule("fwd_fp8", "hopper"),
    "fp8_two_level": Fp8Schedule("fwd_fp8", "two_level"),
    # Choices that hardware has to make; descales per head.
    "fp8_no_polynomial": Fp8Schedule("fwd_fp8", "hopper"),
    "fp8_m192": Fp8Schedule("fwd_fp8", "hopper"),
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
        from attnbench.hopper.library import KernelLibrary

        return KernelLibrary(self.path)

    @functools.cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The variant table as recorded when it was built; the library is not loaded for it."""
        from attnbench.hopper.library import Variant

        return tuple(Variant.from_row(row) for row in self.build.variants)

    def facts(self, variant: Variant) -> KernelFacts:
        """Static figures of one variant, read once: disassembling takes about a second."""
        if variant.index not in self._facts:
            from attnbench.hopper.inspect import inspect_build

            (self._facts[variant.index],) = inspect_build(self.build, self.path, variant)
        return self._facts[variant.index]


def missing_library(name: str) -> str | None:
    """Why the library of kernels/NAME.cu cannot be used, with the way out; None when it is there and fresh."""
    from attnbench.hopper.build import is_stale, library_path, read_build

    path = library_path(name)
    build = read_build(path)
    if build is None or not path.is_file():
        return f"kernels/{name}.cu is not built; {WAY_OUT}"
    if is_stale(build):
        return f"the library of kernels/{name}.cu is older than its source; {WAY_OUT}"
    return None


def missing(schedule: str) -> str | None:
    """Why the library of a schedule cannot be used, with the way out; None when it is there and fresh."""
    from attnbench.hopper.build import library_path, read_build

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
    from attnbench.hopper.build import library_path, read_build
    from attnbench.hopper.library import KernelError

    if schedule not in FILES:
        raise KernelError(f'no schedule "{schedule}"; there are {", ".join(FILES)}')
    reason = missing(schedule)
    if reason is not None:
        raise KernelError(reason)
    path = library_path(FILES[schedule])
    build = read_build(path)
    assert build is not None, "`missing` has read it"
    return BuiltKernel(path, build)


# What the backends of our own kernels share: one backend a schedule, its library, its verdicts, its bare launch.

# The only compute capability that runs sm_90a code.
HOPPER = (9, 0)


@dataclass(frozen=True)
class KernelBackend(Base):
    """A schedule of kernels/ by a bare launch through the C interface. A subclass says what a case becomes."""

    schedule: str
    # Every tile is summed by one warpgroup in one order, whatever CTA it falls to.
    deterministic: bool | frozenset[str] = True
    devices: tuple[str, ...] = ("cuda",)

    def kernel(self) -> BuiltKernel:
        """The library behind the schedule. Raises KernelError where there is none."""
        return built_kernel(self.schedule)

    def case_reason(self, case: Case) -> str | None:
        """Why no kernel of this backend could answer the case, whatever is built."""
        raise NotImplementedError

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        """Arguments of the case for the library's own check; nothing is allocated."""
        raise NotImplementedError

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        raise NotImplementedError

    def version(self) -> str:
        build = self.kernel().build
        return f"{build.name} {build.digest} ({build.compiler})"

    def unavailable(self) -> str | None:
        from attnbench.machine.nvml import gpus

        cards = gpus()
        if not cards:
            return "no NVIDIA GPU on this machine; it needs a Hopper GPU (H100, H200)"
        if all(card.compute_capability != HOPPER for card in cards):
            found = ", ".join(f"{card.name} ({'.'.join(map(str, card.compute_capability))})" for card in cards)
            return f"it needs compute capability 9.0 (H100, H200); this machine has {found}"
        return missing(self.schedule)

    def unsupported(self, case: Case) -> str | None:
        from attnbench.hopper.library import KernelError

        try:
            kernel = self.kernel()
        except KernelError as error:
            return str(error)
        reason = self.case_reason(case)
        if reason is not None:
            return reason
        variant = self.variant(case)
        if variant is None:
            mask = "causal" if case.causal else "not causal"
            return f"it has no variant for {case.dtype}, head_dim {case.head_dim}, {mask}"
        status, reason = kernel.library.supports(self.case_arguments(variant, case))
        return reason if status else None

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        """Registers, spills and instruction counts of the kernel that answers this case."""
        from attnbench.hopper.inspect import record_facts

        variant = self.variant(case)
        return None if variant is None else record_facts(self.kernel().facts(variant))

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        bound = self.bind(case, inputs)
        outputs, device = Outputs(bound.out, bound.lse), inputs.q.device
        if device.index != torch.cuda.current_device():
            raise ValueError(f"inputs are on {device}, but the current device is {torch.cuda.current_device()}")

        def call() -> Outputs:
            # The stream is asked for at each call: a CUDA graph is captured on a stream of its own.
            bound.launch(torch.cuda.current_stream().cuda_stream)
            return outputs

        return call

    def variant(self, case: Case) -> Variant | None:
        """The row of the variant table that answers the case."""
        rows = self.kernel().variants
        wanted = (self.schedule, case.dtype, case.head_dim, case.causal, case.is_fp8 and case.scaling == "block")
        return next((row for row in rows if row.answers(*wanted)), None)
