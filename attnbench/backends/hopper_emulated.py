"""Our own Hopper kernels in a CPU emulation: the very sources of kernels/, judged on any machine with a C++ compiler.

A launch follows the PTX ISA's order of events under a random delivery; races, deadlocks and missing fences are errors
of kind `hazard`. What that says of hardware: kernels/emulation/README.md. No time of it is a speed, and none is taken.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import Case, forward_flops
from attnbench.hopper.cases import EightBit, SixteenBit
from attnbench.hopper.schedules import DEFAULT_FP8_SCHEDULE, DEFAULT_SCHEDULE, FP8_SCHEDULES, SCHEDULES, KernelBackend

if TYPE_CHECKING:
    from attnbench.hopper.emulation import EmulatedKernel, EmulationConfig

# A core emulates about 1e9 FLOP/s; a launch that takes minutes would end in the time-out.
LARGEST_FLOPS = 40 * 10**9


@dataclass(frozen=True)
class _Emulated(KernelBackend):
    """A schedule in the emulation. Each call of a case has a seed of its own, the same in every run."""

    devices: tuple[str, ...] = ("cpu",)
    by_name_only: tuple[str, ...] = ("cpu",)
    emulated: bool = True
    # How e4m3 products are summed there: as the kernels' declared accumulators have it.
    sums: str = "fp32"

    def kernel(self) -> EmulatedKernel:
        from attnbench.hopper.emulation import emulated_kernel

        return emulated_kernel(self.schedule)

    def unavailable(self) -> str | None:
        from attnbench.hopper.toolchain import KERNELS, ToolMissing, find_host_compiler

        if not KERNELS.is_dir():
            return "the kernels' sources are not part of this installation"
        try:
            find_host_compiler()
        except ToolMissing as error:
            return str(error)
        return None

    def version(self) -> str:
        """Of the sources; the library is compiled once a case wants it."""
        from attnbench.hopper.schedules import FILES
        from attnbench.hopper.toolchain import KERNELS, source_digest

        source = KERNELS / f"{FILES[self.schedule]}.cu"
        folders = [KERNELS / "emulation" / "include", KERNELS / "include"]
        return f"{source.stem} {source_digest([source], folders)} (emulated)"

    def build(self) -> None:
        self.kernel()

    def unsupported(self, case: Case) -> str | None:
        if forward_flops(case) > LARGEST_FLOPS:
            size, most = forward_flops(case) / 1e9, LARGEST_FLOPS / 1e9
            return f"{size:.3g} GFLOP would take minutes in the emulation; it takes cases of up to {most:g}"
        return super().unsupported(case)

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        config = self.config(case, 0)
        emulated = {"mode": "emulation", "delivery": config.delivery, "seed": config.seed, "checks": "full"}
        variant = self.variant(case)
        return {"emulated": emulated} if variant is None else {"name": variant.kernel, "emulated": emulated}

    def config(self, case: Case, call: int) -> EmulationConfig:
        """How the call of that number runs: repeats take further seeds, since the same one repeats by construction."""
        from attnbench.hopper.emulation import RANDOM, EmulationConfig

        return EmulationConfig(RANDOM, seed=zlib.crc32(case.key.encode()) + call, accumulator=self.sums)

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        from attnbench.hopper.emulation import launched

        bound, emulator, calls = self.bind(case, inputs), self.kernel().emulator, itertools.count()
        outputs = Outputs(bound.out, bound.lse)

        def launch() -> Outputs:
            bound.launch()
            return outputs

        return lambda: launched(emulator, self.config(case, next(calls)), launch)


@dataclass(frozen=True)
class HopperEmulated(_Emulated, SixteenBit):
    """A schedule for fp16 and bf16."""

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return "hopper_emulated" if self.schedule == DEFAULT_SCHEDULE else f"hopper_emulated[{self.schedule}]"


@dataclass(frozen=True)
class HopperFp8Emulated(_Emulated, EightBit):
    """A schedule for e4m3, with Hopper's truncated sums. The quantize kernel runs too, and its bits are held."""

    sums: str = "truncated"

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        default = self.schedule == DEFAULT_FP8_SCHEDULE
        return "hopper_fp8_emulated" if default else f"hopper_fp8_emulated[{self.schedule.removeprefix('fp8_')}]"

    def build(self) -> None:
        from attnbench.hopper.emulation import emulated_quantizer

        super().build()
        emulated_quantizer()

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        self.quantize(case, inputs)
        return super().prepare(case, inputs)

    def quantize(self, case: Case, inputs: Inputs) -> None:
        """Raises KernelError where the quantize kernel's bits of the originals are not the reference quantizer's.

        NOTE: not those that the inputs hold: a probe may have changed these, as to a descale of 0.
        """
        from attnbench.hopper.emulation import emulated_quantizer, launched
        from attnbench.hopper.library import KernelError
        from attnbench.hopper.quantizer import BoundQuantize, Scheme, differences
        from attnbench.reference.quantize import quantize

        library, emulator = emulated_quantizer()
        bound = BoundQuantize.of(library, inputs.q, inputs.k, inputs.v, Scheme.of(case))
        expected = quantize(inputs.q, inputs.k, inputs.v, case)
        wrong = differences(launched(emulator, self.config(case, 0), bound.launch), expected)
        if wrong:
            raise KernelError(f"the quantize kernel's bits are not the reference quantizer's: {wrong}")


BACKENDS = (
    *(HopperEmulated(schedule) for schedule in SCHEDULES),
    *(HopperFp8Emulated(schedule) for schedule in FP8_SCHEDULES),
)
