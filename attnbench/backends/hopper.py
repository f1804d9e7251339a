"""Our own Hopper kernels (kernels/fwd_*.cu), one backend a schedule, by a bare launch through the C interface."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.kernel_schedules import DEFAULT_SCHEDULE, SCHEDULES, built_kernel, missing

if TYPE_CHECKING:
    from attnbench.kernel_library import KernelLibrary, Variant

# The only compute capability that runs sm_90a code.
HOPPER = (9, 0)


@dataclass(frozen=True)
class Hopper:
    """The backend of one schedule; `hopper` is the default one."""

    schedule: str
    # Every tile is summed by one warpgroup in one order, whatever CTA it falls to.
    deterministic: bool = True
    devices: tuple[str, ...] = ("cuda",)
    accumulator: str = "fp32"

    @property
    def by_name_only(self) -> tuple[str, ...]:
        """The levels and ablations below the default schedule join a run only where they are asked for."""
        return () if self.schedule == DEFAULT_SCHEDULE else self.devices

    @property
    def name(self) -> str:
        return "hopper" if self.schedule == DEFAULT_SCHEDULE else f"hopper[{self.schedule}]"

    def version(self) -> str:
        build = built_kernel(self.schedule).build
        return f"{build.name} {build.digest} ({build.compiler})"

    def unavailable(self) -> str | None:
        from attnbench.nvml import gpus

        cards = gpus()
        if not cards:
            return "no NVIDIA GPU on this machine; it needs a Hopper GPU (H100, H200)"
        if all(card.compute_capability != HOPPER for card in cards):
            found = ", ".join(f"{card.name} ({'.'.join(map(str, card.compute_capability))})" for card in cards)
            return f"it needs compute capability 9.0 (H100, H200); this machine has {found}"
        return missing(self.schedule)

    def unsupported(self, case: Case) -> str | None:
        from attnbench.kernel_library import KernelError

        try:
            kernel = built_kernel(self.schedule)
        except KernelError as error:
            return str(error)
        if case.head_dim_v != case.head_dim:
            return "it takes one head_dim for q, k and v"
        variant = self._variant(case)
        if variant is None:
            mask = "causal" if case.causal else "not causal"
            return f"it has no variant for {case.dtype}, head_dim {case.head_dim}, {mask}"
        return _refused(kernel.library, variant, case)

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        """Registers, spills and instruction counts of the kernel that answers this case."""
        from attnbench.kernel_inspect import record_facts

        variant = self._variant(case)
        return None if variant is None else record_facts(built_kernel(self.schedule).facts(variant))

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        from attnbench.kernel_arguments import BoundForward

        library = built_kernel(self.schedule).library
        bound = BoundForward.of(library, self._variant(case), inputs.q, inputs.k, inputs.v, case.causal, case.scale)
        outputs, device = Outputs(bound.out, bound.lse), inputs.q.device
        if device.index != torch.cuda.current_device():
            raise ValueError(f"inputs are on {device}, but the current device is {torch.cuda.current_device()}")

        def call() -> Outputs:
            # The stream is asked for at each call: a CUDA graph is captured on a stream of its own.
            bound.launch(torch.cuda.current_stream().cuda_stream)
            return outputs

        return call

    def _variant(self, case: Case) -> Variant | None:
        rows = built_kernel(self.schedule).variants
        wanted = (self.schedule, case.dtype, case.head_dim, case.causal)
        return next((row for row in rows if row.answers(*wanted)), None)


def _refused(library: KernelLibrary, variant: Variant, case: Case) -> str | None:
    """What the library's own argument check says of a contiguous problem of this shape; nothing is allocated."""
    from attnbench.kernel_arguments import case_args

    status, reason = library.supports(case_args(variant, case))
    return reason if status else None


BACKENDS = tuple(Hopper(schedule) for schedule in SCHEDULES)
