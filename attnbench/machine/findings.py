"""Whether this machine is fit to measure: findings on its GPUs, torch, CPU, memory and disk. Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.machine import host, nvml
from attnbench.machine.facts import installed_version, lacks_cuda_torch, torch_cuda_version
from attnbench.machine.nvml import gpu_facts, gpus

OK, ADVICE, PROBLEM, NOT_APPLICABLE = "ok", "advice", "problem", "not applicable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    severity: problem (a measurement here is wrong or cannot run), advice (it can be better), ok, not applicable.
    why: what it does to a measurement; mend: the command, or the step, that mends it. Both "" where all is well.
    doubtful: it makes figures that are taken here and now doubtful.
    """

    severity: str
    what: str
    why: str = ""
    mend: str = ""
    doubtful: bool = False


_NVIDIA_VENDOR = "0x10de"
GIB = 2**30


def gpu_findings() -> Iterator[Finding]:
    if not gpus():
        yield _no_gpu()
        return
    for gpu in gpus():
        facts = gpu_facts(gpu.index)
        if facts is not None:
            yield from _card_findings(gpu.index, facts)


def _no_gpu() -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and host.read_text(Path("/proc/driver/nvidia/version")):
        return Finding(
            ADVICE,
            f'CUDA_VISIBLE_DEVICES="{hidden}" leaves no GPU visible',
            "Only CPU backends can run.",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if _nvidia_card_present():
        return Finding(
            PROBLEM,
            "an NVIDIA card is here, but its driver does not answer",
            "Only CPU backends can run.",
            "install or load the NVIDIA driver, until nvidia-smi lists the card",
        )
    return Finding(NOT_APPLICABLE, "no NVIDIA GPU: the CPU backends can be measured")


def _nvidia_card_present() -> bool:
    """Whether a display or compute controller (PCI class 0x03) of NVIDIA is plugged in."""
    return any(
        host.read_text(device / "vendor") == _NVIDIA_VENDOR
        and (host.read_text(device / "class") or "").startswith("0x03")
        for device in Path("/sys/bus/pci/devices").glob("*")
    )


def _card_findings(index: int, facts: Mapping[str, Any]) -> Iterator[Finding]:
    name = f"GPU {index}"
    memory = f"{facts['memory_bytes'] / GIB:.0f} GiB"
    yield Finding(
        OK,
        f"{name}: {facts['name']}, {memory}, compute capability {facts['compute_capability']}, "
        f"driver {facts['driver']} (CUDA {facts['cuda_driver']})",
    )
    yield from _driver_findings(name, facts)
    yield from _sharing_findings(index, facts)
    yield from _clock_findings(index, facts)


def _driver_findings(name: str, facts: Mapping[str, Any]) -> Iterator[Finding]:
    needed, offered = torch_cuda_version(), facts["cuda_driver"]
    # Within one major version an older driver will do (CUDA compatibility guide, minor version compatibility).
    if needed and offered and version_numbers(offered)[0] < version_numbers(needed)[0]:
        yield Finding(
            PROBLEM,
            f"{name}: its driver knows CUDA {offered}, torch was built for CUDA {needed}",
            "torch will find no GPU.",
            f"update the driver, or install a torch built for CUDA {offered}",
        )


def _sharing_findings(index: int, facts: Mapping[str, Any]) -> Iterator[Finding]:
    name, others = f"GPU {index}", facts["other_processes"]
    if others:
        noun = "process" if others == 1 else "processes"
        yield Finding(
            PROBLEM,
            f"{name}: {others} other compute {noun}",
            "They take time slices, memory and power from what is measured.",
            "nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv, then end or move them",
            doubtful=True,
        )
    if facts["mig"]:
        yield Finding(
            ADVICE,
            f"{name}: a MIG slice",
            "It has fewer SMs and shares power with its neighbours: figures do not compare with a whole card's.",
            "sudo nvidia-smi -mig 0 (ends all work on the card)",
            doubtful=True,
        )
    if facts["mps"]:
        yield Finding(
            PROBLEM,
            f"{name}: the Multi-Process Service runs here",
            "Kernels of other processes may run on the same SMs at the same time, unseen.",
            "echo quit | sudo nvidia-cuda-mps-control",
            doubtful=True,
        )
    yield from _mode_findings(index, facts)


def _mode_findings(index: int, facts: Mapping[str, Any]) -> Iterator[Finding]:
    name = f"GPU {index}"
    if facts["compute_mode"] == "prohibited":
        yield Finding(
            PROBLEM,
            f"{name}: its compute mode is prohibited",
            "No CUDA program can use it.",
            f"sudo nvidia-smi -i {index} -c DEFAULT",
        )
    if facts["ecc_pending"] is not None and facts["ecc_pending"] != facts["ecc"]:
        now, later = ("on", "off") if facts["ecc"] else ("off", "on")
        yield Finding(
            ADVICE,
            f"{name}: ECC is {now}, and will be {later} after the next reset",
            "Memory bandwidth and size differ with it: figures of before and after a reset do not compare.",
            f"sudo nvidia-smi -i {index} -e {int(facts['ecc'])} (stays as it is), or restart the machine now",
        )
    if facts["persistence"] is False:
        yield Finding(
            ADVICE,
            f"{name}: persistence mode is off",
            "The driver unloads between runs: each starts with a cold card and seconds of set-up.",
            f"sudo nvidia-smi -i {index} -pm 1",
        )


def _clock_findings(index: int, facts: Mapping[str, Any]) -> Iterator[Finding]:
    name, limit, default = f"GPU {index}", facts["power_limit_w"], facts["default_power_limit_w"]
    if limit is not None and default is not None and limit < default:
        yield Finding(
            ADVICE,
            f"{name}: power limit {limit:g} W, its default is {default:g} W",
            "Long attention kernels run at the power limit: figures do not compare with a card at its default.",
            f"sudo nvidia-smi -i {index} -pl {default:g}",
            doubtful=True,
        )
    enforced = facts["enforced_power_limit_w"]
    if enforced is not None and limit is not None and enforced < limit:
        yield Finding(
            ADVICE,
            f"{name}: {enforced:g} W are enforced, below its own limit of {limit:g} W",
            "Something else than the card limits its power (its slot, its rack); long kernels will be slower for it.",
            f"nvidia-smi -i {index} -q -d POWER, then ask who runs the machine",
            doubtful=True,
        )
    reasons = facts["clock_event_reasons"] or 0
    slowed = nvml.slowdowns(reasons)
    if slowed:
        yield Finding(
            PROBLEM,
            f"{name}: clocks are held down now ({', '.join(slowed)}), {facts['temperature_c']} C",
            "Timings are those of a throttled card.",
            "let it cool down, and see to its cooling and power",
            doubtful=True,
        )
    set_to, default_clock = facts["application_sm_clock_mhz"], facts["default_application_sm_clock_mhz"]
    lowered = set_to is not None and default_clock is not None and set_to < default_clock
    if reasons & nvml.APPLICATION_CLOCKS or lowered:
        yield Finding(
            ADVICE,
            f"{name}: application clocks are set" + (f" ({set_to} MHz, default {default_clock})" if lowered else ""),
            "The clock is fixed below what the card could reach; fine for comparisons, not for peak figures.",
            f"sudo nvidia-smi -i {index} -rac; sudo nvidia-smi -i {index} -rgc",
            doubtful=True,
        )


def doubts(device: str) -> list[Finding]:
    """What makes figures of a device ("cpu", "cuda:1") doubtful here and now, the gravest first. Takes milliseconds."""
    kind, _, number = device.partition(":")
    findings = cpu_findings() if kind == "cpu" else _doubts_of_card(int(number or 0))
    return sorted((item for item in findings if item.doubtful), key=lambda item: item.severity != PROBLEM)


def _doubts_of_card(index: int) -> Iterator[Finding]:
    facts = gpu_facts(index)
    if facts is not None:
        yield from _sharing_findings(index, facts)
        yield from _clock_findings(index, facts)


def version_numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: `2.13.0+cpu` -> (2, 13)."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


OLDEST_TORCH = (2, 9)
# A worker with torch loaded takes about 1 GiB; inputs, oracle and eager scores of the small suites fit into the rest.
LEAST_MEMORY_BYTES, AMPLE_MEMORY_BYTES = 2 * GIB, 8 * GIB
LEAST_DISK_BYTES, AMPLE_DISK_BYTES = GIB // 10, 2 * GIB
# Other work on a quarter of the cores shows in the medians of multi-threaded CPU timings.
BUSY_SHARE = 0.25
# From one ready process a core on, a CPU's times are those of the queue: they differ by a multiple from run to run.
OVERLOADED_SHARE = 1.0
# More than this is taken from a measurement sooner or later.
STOLEN_SHARE = 0.01


def torch_findings() -> Iterator[Finding]:
    version = installed_version("torch")
    if version is None:
        yield Finding(
            PROBLEM, "torch is not installed", "Nothing can be checked or timed without it.", 'pip install "torch>=2.9"'
        )
        return
    if version_numbers(version) < OLDEST_TORCH:
        yield Finding(
            PROBLEM,
            f"torch {version} is too old",
            "The backends are written for torch 2.9 and newer.",
            'pip install --upgrade "torch>=2.9"',
        )
        return
    reason = lacks_cuda_torch() if gpus() else None
    if reason:
        yield Finding(
            PROBLEM,
            f"torch {version} cannot use the GPU here",
            "Every GPU backend stays out of the run.",
            reason.partition(": ")[2] or reason,
        )
        return
    yield Finding(OK, f"torch {version}")


def cpu_findings() -> Iterator[Finding]:
    cpu = host.cpu_facts()
    yield Finding(OK, f"CPU: {cpu['model']}, {cpu['cores']} of {cpu['logical']} logical cores usable")
    if cpu["governor"] is None:
        yield Finding(NOT_APPLICABLE, "CPU clock policy: not shown here")
    elif cpu["governor"] != "performance":
        yield Finding(
            ADVICE,
            f'CPU clock policy is "{cpu["governor"]}"',
            "The clock follows the load, so that a CPU timing depends on what ran before it.",
            "sudo cpupower frequency-set -g performance",
            doubtful=True,
        )
    if cpu.get("boost"):
        yield Finding(
            ADVICE,
            "CPU boost is on",
            "The clock above its base falls as the chip warms up and as more cores work: CPU figures wander with it.",
            host.boost_switch() or "switch it off in the firmware",
            doubtful=True,
        )
    quota = cpu["quota_cores"]
    if quota is not None and quota < cpu["cores"]:
        yield Finding(
            ADVICE,
            f"the container may use {quota:g} of {cpu['cores']} cores' time",
            "More threads than that are stopped in the middle of a timing.",
            f"taskset -c 0-{max(0, int(quota) - 1)} attnbench ...",
            doubtful=True,
        )
    if cpu["virtual_machine"]:
        yield Finding(
            ADVICE,
            "a virtual machine",
            "Neighbours take time that nothing here can see; compare CPU figures within one run only.",
            doubtful=True,
        )
    yield from _neighbour_findings(cpu)


def _neighbour_findings(cpu: Mapping[str, Any]) -> Iterator[Finding]:
    """Whoever else works on these CPUs."""
    stolen = cpu.get("stolen")
    if stolen is not None and stolen > STOLEN_SHARE:
        yield Finding(
            ADVICE,
            f"the host kept {stolen:.1%} of CPU time for others since boot",
            "What it takes in the middle of a timing shows as noise; records are flagged cpu_stolen where it does.",
            "a machine with CPUs of its own",
            doubtful=True,
        )
    load = os.getloadavg()[0]
    if load > BUSY_SHARE * cpu["cores"]:
        spoilt = load > OVERLOADED_SHARE * cpu["cores"] and not gpus()
        yield Finding(
            PROBLEM if spoilt else ADVICE,
            f"load average {load:.1f} on {cpu['cores']} cores",
            "Other work takes part of the cores: CPU timings will vary.",
            "top -o %CPU, then wait or end it",
            doubtful=True,
        )


def memory_findings() -> Iterator[Finding]:
    size = host.memory_bytes()
    shown = f"memory: {size / GIB:.1f} GiB"
    if size < AMPLE_MEMORY_BYTES:
        severity = PROBLEM if size < LEAST_MEMORY_BYTES else ADVICE
        yield Finding(
            severity,
            shown,
            "Larger cases will be unsupported here, or end out of memory.",
            "raise the container's memory limit, or use a larger machine",
        )
    else:
        yield Finding(OK, shown)


def disk_findings() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    shown = f"disk: {free / GIB:.1f} GiB free in the working directory"
    if free < AMPLE_DISK_BYTES:
        severity = PROBLEM if free < LEAST_DISK_BYTES else ADVICE
        yield Finding(severity, shown, "A full disk ends a run; records taken before stay.", "free some, or use --out")
    else:
        yield Finding(OK, shown)
