"""Our own Hopper kernels (kernels/fwd_*.cu) for fp16 and bf16, one backend a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.hopper.schedules import DEFAULT_SCHEDULE, SCHEDULES, KernelBackend, built_kernel

if TYPE_CHECKING:
    from attnbench.hopper.forward import BoundForward
    from attnbench.hopper.library import ForwardArgs, Variant


@dataclass(frozen=True)
class Hopper(KernelBackend):
    """The backend of one schedule; `hopper` is the default one."""

    accumulator: str = "fp32"

    @property
    def by_name_only(self) -> tuple[str, ...]:  # type: ignore[override]  # read only, as everybody uses it
        """The levels and ablations below the default schedule join a run only where they are asked for."""
        return () if self.schedule == DEFAULT_SCHEDULE else self.devices

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return "hopper" if self.schedule == DEFAULT_SCHEDULE else f"hopper[{self.schedule}]"

    def case_reason(self, case: Case) -> str | None:
        return None if case.head_dim_v == case.head_dim else "it takes one head_dim for q, k and v"

    def case_arguments(self, variant: Variant, case: Case) -> ForwardArgs:
        from attnbench.hopper.forward import case_args

        return case_args(variant, case)

    def bind(self, case: Case, inputs: Inputs) -> BoundForward:
        from attnbench.hopper.forward import BoundForward

        library, variant = built_kernel(self.schedule).library, self.variant(case)
        assert variant is not None, "`unsupported` refuses a case without one"
        return BoundForward.of(library, variant, inputs.q, inputs.k, inputs.v, case.causal, case.scale)


BACKENDS = tuple(Hopper(schedule) for schedule in SCHEDULES)
