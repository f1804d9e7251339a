"""Our own Hopper kernels in a CPU emulation: the very sources of kernels/, judged on any machine with a C++ compiler.

A launch follows the PTX ISA's order of events under a random delivery; races, deadlocks and missing fences are errors
of kind `hazard`. What that says of hardware: kernels/emulation/README.md. No time of it is a speed, and none is taken.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.backend import Call, HazardError, Inputs, Outputs
from attnbench.case import Case, forward_flops
from attnbench.hopper.cases import EightBit, SixteenBit
from attnbench.hopper.schedules import DEFAULT_FP8_SCHEDULE, DEFAULT_SCHEDULE, FP8_SCHEDULES, SCHEDULES, KernelBackend

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.hopper.emulation import EmulatedKernel, EmulationConfig
    from attnbench.hopper.forward import BoundForward
    from attnbench.settings import Emulation

# Two cores emulate about 1e10 FLOP/s, and a case is launched three times at least within its time-out.
LARGEST_FLOPS = 100 * 10**9
# CTAs in flight together, each on a thread of the host: a part of what makes a run, so not the number of cores here.
RESIDENT_CTAS = 2


@dataclass(frozen=True)
class _Emulated(KernelBackend):
    """A schedule in the emulation. Each call of a case has a seed of its own, the same in every run.

    deliveries: `lazy`, `eager`, `random` or `random:SEED`; each call is launched under all of them, to the same bits.
    checks: `full`, or `fast`, which finds no races.
    """

    devices: tuple[str, ...] = ("cpu",)
    by_name_only: tuple[str, ...] = ("cpu",)
    emulated: bool = True
    # How e4m3 products are summed there: as the kernels' declared accumulators have it.
    sums: str = "fp32"
    deliveries: tuple[str, ...] = ("random",)
    checks: str = "full"
    # Calls made so far of each case, whatever was prepared in between: a repeat must not repeat a seed.
    calls: Counter[str] = dataclasses.field(default_factory=Counter, compare=False, repr=False)

    def under(self, emulation: Emulation) -> _Emulated:
        return dataclasses.replace(self, deliveries=emulation.delivery, checks=emulation.checks, calls=Counter())

    def kernel(self) -> EmulatedKernel:
        from attnbench.hopper.emulation import emulated_kernel

        return emulated_kernel(self.schedule)

    def unavailable(self) -> str | None:
        from attnbench.hopper.toolchain import KERNELS, find_host_compiler
        from attnbench.machine_code.disassembler import ToolMissing

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

        return _sources_version(FILES[self.schedule])

    def build(self) -> None:
        self.kernel()

    def unsupported(self, case: Case) -> str | None:
        if forward_flops(case) > LARGEST_FLOPS:
            size, most = forward_flops(case) / 1e9, LARGEST_FLOPS / 1e9
            return f"{size:.3g} GFLOP would take minutes in the emulation; it takes cases of up to {most:g}"
        return super().unsupported(case)

    def emulation_facts(self, case: Case) -> Mapping[str, Any]:
        return {
            "mode": "emulation",
            "delivery": ",".join(self.deliveries),
            "seed": self.config(case, 0, self.deliveries[0]).seed,
            "checks": self.checks,
        }

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        """What ran, what the last launch of this library did, as counted, and what its main loop needs on a GPU."""
        from attnbench.hopper.loads import recorded_loads
        from attnbench.hopper.schedules import FILES

        emulated = self.emulation_facts(case)
        variant, counted = self.variant(case), self.kernel().emulator.counted
        facts: dict[str, Any] = {"emulated": emulated}
        if variant is not None:
            loads = recorded_loads(FILES[self.schedule], variant.key)
            facts |= {"name": variant.kernel, **({} if loads is None else {"loads": dict(loads)})}
        return facts if counted is None else facts | {"counted": dict(counted)}

    def config(self, case: Case, call: int, delivery: str) -> EmulationConfig:
        """How the call of that number runs: repeats take further seeds, since the same one repeats by construction."""
        from attnbench.hopper.emulation import EmulationConfig

        name, _, seed = delivery.partition(":")
        first = int(seed) if seed else zlib.crc32(case.key.encode())
        return EmulationConfig(
            name, seed=first + call, resident_ctas=RESIDENT_CTAS, accumulator=self.sums, checks=self.checks
        )

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        bound = self.bind(case, inputs)

        def call() -> Outputs:
            number, first = self.calls[case.key], None
            self.calls[case.key] += 1
            for delivery in self.deliveries:
                self.launch(bound, case, self.config(case, number, delivery))
                first = _same_bits(bound, first, self.deliveries[0], delivery)
            return Outputs(bound.out, bound.lse)

        return call

    def launch(self, bound: BoundForward, case: Case, config: EmulationConfig) -> None:
        """One launch, and what it did. Raises HazardError and KernelError."""
        from attnbench.hopper.emulation import count_launch, launched

        emulator = self.kernel().emulator
        launched(emulator, config, bound.launch)
        emulator.counted = count_launch(emulator, case, bound.args.k, bound.args.v)


@functools.cache
def _sources_version(library: str) -> str:
    """Of a kernel file and its headers, read once for all its schedules and records."""
    from attnbench.hopper.toolchain import KERNELS, source_digest

    folders = [KERNELS / "emulation" / "include", KERNELS / "include"]
    return f"{library} {source_digest([KERNELS / f'{library}.cu'], folders)} (emulated)"


def _same_bits(bound: BoundForward, first: tuple[Tensor, ...] | None, name: str, other: str) -> tuple[Tensor, ...]:
    """Copies of what the first delivery gave. Raises HazardError where another gave other bits: order decides them."""
    import torch

    given = tuple(tensor.clone() for tensor in (bound.out, bound.lse))
    if first is None:
        return given
    for tensor, mine, theirs in zip(("out", "lse"), given, first):
        if not mine.view(torch.uint8).equal(theirs.view(torch.uint8)):
            raise HazardError(f"{tensor} has other bits under {other} delivery than under {name}")
    return first


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
        wrong = differences(launched(emulator, self.config(case, 0, self.deliveries[0]), bound.launch), expected)
        if wrong:
            raise KernelError(f"the quantize kernel's bits are not the reference quantizer's: {wrong}")


BACKENDS = (
    *(HopperEmulated(schedule) for schedule in SCHEDULES),
    *(HopperFp8Emulated(schedule) for schedule in FP8_SCHEDULES),
)
