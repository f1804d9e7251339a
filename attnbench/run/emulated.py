"""Our kernels in a run without a Hopper GPU: which of them join it, and in what order their cases come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnbench.backends import builtin
from attnbench.case import forward_flops
from attnbench.run.process import RunError
from attnbench.suite.suite import Job, Suite

# What joins a suite that says `emulated: true`: the default schedules.
DEFAULTS = ("hopper_emulated", "hopper_fp8_emulated")
SUFFIX = "_emulated"


def emulated_names() -> tuple[str, ...]:
    return tuple(name for name, backend in builtin().items() if backend.emulated)


def emulated_twins(names: Sequence[str] | None, suite: str) -> tuple[str, ...]:
    """The emulated backends of what a suite lists: `hopper[ws]` gives `hopper_emulated[ws]`; of None, the defaults.

    What has no emulation is left out. Raises RunError where nothing is left.
    """
    if names is None:
        return DEFAULTS
    known = emulated_names()
    twins = []
    for name in names:
        stem, bracket, schedule = name.partition("[")
        twin = name if name in known else f"{stem}{SUFFIX}{bracket}{schedule}"
        if twin in known:
            twins.append(twin)
    if not twins:
        raise RunError(
            f'--emulated: suite "{suite}" lists none of our kernels ({", ".join(names)}); '
            f"name one of them: --backend {DEFAULTS[0]}"
        )
    return tuple(dict.fromkeys(twins))


def joining(suite: Suite, device: str, reasons: Mapping[str, str | None]) -> tuple[tuple[str, ...], str | None]:
    """The emulated backends that join the suite by themselves, and why those that should do not, if they do not."""
    if suite.backends is not None or not suite.emulated or device != "cpu":
        return (), None
    able = tuple(name for name in DEFAULTS if reasons.get(name) is None)
    missing = next((reasons[name] for name in DEFAULTS if name not in able), None)
    return able, None if missing is None else f"our kernels do not run here in the emulation: {missing}"


def in_order(jobs: Sequence[Job], backends: Sequence[str]) -> tuple[Job, ...]:
    """The smallest cases first where all backends are emulated, so that a budget of time goes as far as it can."""
    known = emulated_names()
    if not backends or any(name not in known for name in backends):
        return tuple(jobs)
    return tuple(sorted(jobs, key=lambda job: forward_flops(job.case)))
