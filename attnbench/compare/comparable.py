"""Whether two runs, or two measurements, may be compared at all, and what else differs that a reader should know.

Rates need no rule of their own: records hold seconds, and one formula counts the FLOPs of both sides as they are read.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attnbench.records.environment import Machine, gpu_of, section
from attnbench.records.measurement import Measurement
from attnbench.records.sentinels import why_suspect
from attnbench.records.store import Run
from attnbench.units import count

NOT_RECORDED = "not recorded"
# A run's own GEMM that differs by more than this from the other side's tells of a machine in another state.
SENTINEL_DRIFT = 0.02
# Settings of a GPU that decide what a time means: key of the environment's `gpu`, and what to call it.
_GPU_SETTINGS = {
    "name": "GPU", "sm_count": "SMs", "fingerprint": "card", "mig": "MIG slice", "power_limit_w": "power limit (W)",
    "ecc": "ECC", "max_sm_clock_mhz": "maximum SM clock (MHz)", "application_sm_clock_mhz": "application clock (MHz)",
}  # fmt: skip
_CPU_SETTINGS = {"model": "CPU", "cores": "CPUs allowed", "quota_cores": "CPU quota", "governor": "clock policy",
                 "boost": "boost"}  # fmt: skip
# Which card, machine or installation it was: all that may differ between two of one kind.
_IDENTITY = {"machine", "card", "host"}
# The flag of a measurement under a power cap, as `conditions` sets it (which belongs to the measuring half).
_POWER_CAPPED = "power_capped"
# How a measurement was made: two that differ in one of these answer different questions.
_MEASURED_BY = ("timer", "regime", "cache")


def differences_of_machines(base: Run, new: Run) -> tuple[str, ...]:
    """Why timings of two runs are not comparable: `power limit (W): 700 before, 500 now`. () where they are.

    A fact that one of them did not record forbids nothing; `cautions` names it. A run that was resumed on another
    machine or under another power limit is comparable with neither.
    """
    sessions = itertools.product(_sessions(base), _sessions(new))
    found = itertools.chain.from_iterable(itertools.starmap(differences_of_environments, sessions))
    return tuple(dict.fromkeys(found))


def differences_of_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """The same of two environments."""
    return tuple(_differences(_machine(before), _machine(now), both=True))


def _sessions(run: Run) -> list[Mapping[str, Any]]:
    """The environment of a run's beginning, and of each time that it was resumed."""
    resumed = run.environment.get("resumed")
    return [run.environment, *(one for one in resumed if isinstance(one, Mapping))] if resumed else [run.environment]


def of_one_kind(base: Run, new: Run) -> bool:
    """Whether two runs are of GPUs of one kind under one policy in hosts with the same CPU, or of such hosts without a
    GPU; the same one or not."""
    before, now = (_machine(run.environment) for run in (base, new))
    if None in (one_of_its_kind(base), one_of_its_kind(new)):
        return False
    if any(differences_of_machines(run, run) for run in (base, new)):  # resumed on another
        return False
    hosts = [{"CPU": section(run.environment, "cpu").get("model")} for run in (base, new)]
    alike = [{name: value for name, value in facts.items() if name not in _IDENTITY} for facts in (before, now)]
    return not any(True for one, other in (alike, hosts) for _ in _differences(one, other, both=True))


def one_of_its_kind(run: Run) -> str | None:
    """Which card a run was measured on, or which host without a GPU, by fingerprint; None where it was not recorded."""
    gpu = gpu_of(run.environment)
    return gpu.get("fingerprint") if gpu else run.environment.get("host")


def differences_of_measurements(base: Measurement, new: Measurement) -> tuple[str, ...]:
    """The same of two measurements of a case: timer, regime, cache."""
    before, now = ({name: getattr(one, name) for name in _MEASURED_BY} for one in (base, new))
    return tuple(_differences(before, now, both=True))


def cautions(base: Run, new: Run) -> Iterator[str]:
    """What differs and does not forbid the comparison, because it may be the very thing that is compared."""
    refusals = differences_of_machines(base, new)
    machines = _differences(_machine(base.environment), _machine(new.environment))
    yield from (text for text in machines if text not in refusals)
    yield from _differences(_software(base.environment), _software(new.environment))
    before, now = (Machine.of(run.environment, run.sentinels).gemm_flops_per_s for run in (base, new))
    # NOTE: of old runs the rate is whatever stands in their environment.
    if isinstance(before, (int, float)) and isinstance(now, (int, float)) and before > 0 and now > 0:
        drift = now / before - 1
        if abs(drift) > SENTINEL_DRIFT:
            yield f"the machine's own GEMM: {100 * drift:+.1f} % in rate, so the machine was in another state"


def cautions_of_measurements(cases: Iterable[tuple[Sequence[Measurement | None], ...]]) -> Iterator[str]:
    """What differs in how (base, new) of each case were timed and forbids nothing, with the number of cases."""
    found: Counter[str] = Counter()
    for sides in cases:
        base, new = ([one for one in side if one is not None] for side in sides)
        for told in (_together, _power_capped, _clocked):
            before, now = ({told(one) for one in side} for side in (base, new))
            if before != now:
                found[f"{_listed(before)} before, {_listed(now)} now"] += 1
    yield from (f"{words} ({count(times, 'case')})" for words, times in found.items())


def _together(measurement: Measurement) -> str:
    others = len(measurement.together) - 1
    return f"timed in turns with {count(others, 'other')}" if others > 0 else "timed alone"


def _power_capped(measurement: Measurement) -> str:
    return "held by a power cap" if _POWER_CAPPED in measurement.flags else "not held by a power cap"


def _clocked(measurement: Measurement) -> str:
    """NOTE: without clocks on one side nothing tells a card at a lower clock from slower code."""
    known = any(block.conditions is not None and block.conditions.sm_clock_mhz for block in measurement.blocks)
    return "SM clocks recorded" if known else "no SM clocks recorded"


def _listed(words: Iterable[str]) -> str:
    return " or ".join(sorted(words))


def suspicion(run: Run) -> str:
    """Why the run itself is suspect, from its sentinels or its environment; "" where it is not."""
    return "; ".join(why_suspect(run.environment, run.sentinels))


def disqualified(run: Run) -> str:
    """Why no verdict may rest on the run; "" where nothing speaks against it.

    NOTE: on a CPU a drift of its sentinels disqualifies nothing, or shared CPUs would never get a verdict: other
    programs move a sentinel by tens of percent for a moment, and what they do to whole runs is in the spread of the
    stored ones.
    """
    sentinels = run.sentinels if gpu_of(run.environment) else ()
    return "; ".join(why_suspect(run.environment, sentinels))


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    gpu = gpu_of(environment)
    facts = {"device": _kind_of_device(environment), "machine": environment.get("machine")}
    facts["GPU"] = "none" if "gpu" in environment and not gpu else None
    if gpu:
        facts |= {title: gpu.get(name) for name, title in _GPU_SETTINGS.items()}
    else:
        cpu = section(environment, "cpu")
        facts |= {title: cpu.get(name) for name, title in _CPU_SETTINGS.items()}
        threads = section(section(environment, "worker"), "threads")
        facts |= {"threads": threads.get("intra_op"), "host": environment.get("host")}
    return facts


def _kind_of_device(environment: Mapping[str, Any]) -> str | None:
    """`cuda` for cuda:0 and cuda:1 alike: which card it was, its fingerprint says."""
    device = environment.get("device")
    return device.partition(":")[0] if isinstance(device, str) else None


def _software(environment: Mapping[str, Any]) -> dict[str, Any]:
    gpu, worker = gpu_of(environment), section(environment, "worker")
    facts = dict(section(environment, "versions"))
    facts |= {"driver": gpu.get("driver"), "nvcc": environment.get("nvcc"),
              "CUDA of torch": section(worker, "torch").get("cuda"), "cuDNN": section(worker, "torch").get("cudnn"),
              "Python": section(environment, "python").get("version"),
              "attnbench revision": _short(section(environment, "attnbench").get("revision"))}  # fmt: skip
    return facts


def _short(revision: Any) -> Any:
    return revision[:12] if isinstance(revision, str) else revision


def _differences(base: Mapping[str, Any], new: Mapping[str, Any], both: bool = False) -> Iterator[str]:
    """What is not equal; with `both`, only where neither side is silent."""
    for name in dict.fromkeys((*base, *new)):
        before, now = base.get(name), new.get(name)
        if before != now and not (both and None in (before, now)):
            yield f"{name}: {_text(before)} before, {_text(now)} now"


def _text(value: Any) -> str:
    if value is None:
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
