"""What the backends of our own kernels share: one backend a schedule, its library, its verdicts, its bare launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.kernel_schedules import built_kernel, missing

if TYPE_CHECKING:
    from attnbench.kernel_arguments import BoundForward
    from attnbench.kernel_library import ForwardArgs, Variant

# The only compute capability that runs sm_90a code.
HOPPER = (9, 0)


@dataclass(frozen=True)
class KernelBackend:
    """A schedule of kernels/ by a bare launch through the C interface. A subclass says what a case becomes."""

    schedule: str
    # Every tile is summed by one warpgroup in one order, whatever CTA it falls to.
    deterministic: bool = True
    devices: tuple[str, ...] = ("cuda",)

    def case_reason(self, case: Case) -> str | None:
        """Why no kernel of this backend could answer the case, whatever is built."""
        raise NotImplementedError

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        """Arguments of the case for the library's own check; nothing is allocated."""
        raise NotImplementedError

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        raise NotImplementedError

    def version(self) -> str:
        build = built_kernel(self.schedule).build
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
        from attnbench.kernel_library import KernelError

        try:
            kernel = built_kernel(self.schedule)
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
        from attnbench.kernel_inspect import record_facts

        variant = self.variant(case)
        return None if variant is None else record_facts(built_kernel(self.schedule).facts(variant))

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
        rows = built_kernel(self.schedule).variants
        wanted = (self.schedule, case.dtype, case.head_dim, case.causal, case.is_fp8 and case.scaling == "block")
        return next((row for row in rows if row.answers(*wanted)), None)
