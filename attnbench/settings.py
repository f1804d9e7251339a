"""How a case is checked and timed: the settings that a suite may give, with their defaults and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A year: longer than anybody waits, and what the system's own calls still hold (select(2): time_t).
MAX_S = 366.0 * 24 * 3600
Seconds = Annotated[float, Field(gt=0, le=MAX_S, allow_inf_nan=False)]


class StrictModel(BaseModel):
    """Unknown keys and wrong types are mistakes; a model that was checked stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Timing(StrictModel):
    """How a case is timed."""

    regime: Literal["sustained", "burst"] = Field(
        default="sustained", description="sustained: back to back until clocks settle; burst: short work after a pause"
    )
    cache: Literal["cold", "warm"] = Field(default="cold", description="whether inputs may still be in the cache")
    timer: Literal["auto", "cpu", "events", "graph"] = Field(
        default="auto", description="auto: CUDA events on a GPU, the clock on the CPU"
    )
    processes: int = Field(default=1, ge=1, le=100, description="fresh processes that each measure every case")
    interleave: bool = Field(
        default=True,
        description="time the backends of a case together, block by block in turns; false: one after the other",
    )
    min_samples: int = Field(default=30, ge=1, le=10**9, description="samples to take at least")
    min_time_s: Seconds = Field(default=0.5, description="seconds inside the operation to measure at least")
    max_time_s: Seconds = Field(default=15.0, description="seconds after which measuring stops, converged or not")
    timeout_s: Seconds = Field(
        default=120.0, description="seconds after which a call that does not return counts as hung; its worker is ended"
    )
    compile_timeout_s: Seconds = Field(
        default=600.0, description="seconds that compiling may take, where a call compiles before it runs"
    )
    warmup_s: float = Field(
        default=0.25,
        ge=0,
        le=MAX_S,
        allow_inf_nan=False,
        description="a window of warm-up; at least two, until their medians agree",
    )
    settle_s: float | None = Field(
        default=None,
        ge=0,
        le=MAX_S,
        allow_inf_nan=False,
        description="sustained: seconds back to back before samples count, at least; default: 1 on a GPU, 0 on the CPU",
    )

    def mistake(self) -> str | None:
        """What is wrong with the values together; None where they agree."""
        if self.max_time_s < self.min_time_s:
            return f"max_time_s {self.max_time_s:g} is below min_time_s {self.min_time_s:g}; raise it"
        return None


# `random:7` names the seed of a case's first launch.
DELIVERY_PATTERN = r"^(lazy|eager|random(:\d{1,18})?)$"
Delivery = Annotated[str, Field(pattern=DELIVERY_PATTERN)]


class Emulation(StrictModel):
    """How our kernels are launched in the CPU emulation."""

    delivery: Annotated[tuple[Delivery, ...], Field(strict=False, min_length=1)] = Field(
        default=("random",),
        description="when asynchronous work executes: lazy, eager, random, random:SEED; several: each call under all "
        "of them, to the same bits",
    )
    checks: Literal["full", "fast"] = Field(
        default="full", description="fast: no races, fences or registers in flight, in about half the time"
    )

    @field_validator("delivery", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names


class Factors(StrictModel):
    """Limits as multiples of the eager reference's own error (fp8: of the emulated pipeline's)."""

    max_error: Positive = Field(default=2.0, description="largest absolute error, relative to the tensor's RMS")
    rmse: Positive = Field(default=1.5, description="relative RMSE")
    worst_row: Positive = Field(default=4.0, description="relative RMSE of the worst row")
    fp8: Positive = Field(default=1.3, description="8 bits: error against the emulated pipeline's")


class Checks(StrictModel):
    """How a result is checked before it is timed."""

    oracle: Literal["auto", "full", "sampled"] = Field(
        default="auto",
        description="query rows compared with the fp64 oracle; auto: all up to seqlen_q 4096, then a sample",
    )
    repeats: int = Field(
        default=2,
        ge=0,
        le=10**9,
        description="further calls whose outputs must equal the first's bitwise, unless declared otherwise",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=100,
        description="fresh processes whose outputs must be equal bitwise, unless declared otherwise",
    )
    factors: Factors = Field(default=Factors(), description="limits as multiples of the reference's error")
    sources: bool = Field(
        default=False,
        description="also the error of each source alone (8 bits: q and k, v, P, accumulation), and against the "
        "inputs before rounding",
    )
    probes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="problems with a known answer at each case's shape (`attnbench list probes`); all: every one",
    )

    @field_validator("probes", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names
