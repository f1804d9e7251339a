"""Our own Hopper kernels (kernels/fwd_*.cu) for fp16 and bf16, one backend a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.hopper.cases import SixteenBit
from attnbench.hopper.schedules import DEFAULT_SCHEDULE, SCHEDULES


@dataclass(frozen=True)
class Hopper(SixteenBit):
    """The backend of one schedule; `hopper` is the default one."""

    accumulator: str = "fp32"

    @property
    def by_name_only(self) -> tuple[str, ...]:  # type: ignore[override]  # read only, as everybody uses it
        """The levels and ablations below the default schedule join a run only where they are asked for."""
        return () if self.schedule == DEFAULT_SCHEDULE else self.devices

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return "hopper" if self.schedule == DEFAULT_SCHEDULE else f"hopper[{self.schedule}]"


BACKENDS = tuple(Hopper(schedule) for schedule in SCHEDULES)
