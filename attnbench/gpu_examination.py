"""What `doctor` looks at on each GPU: driver, neighbours, power limit, clocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnbench import clock_events, host
from attnbench.finding import ADVICE, NOT_APPLICABLE, OK, PROBLEM, Finding
from attnbench.gpu_requirements import torch_cuda_version
from attnbench.nvml import gpu_facts, gpus

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
    for device in Path("/sys/bus/pci/devices").glob("*"):
        if host.read_text(device / "vendor") == _NVIDIA_VENDOR:
            if (host.read_text(device / "class") or "").startswith("0x03"):
                return True
    return False


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
        )
    if facts["mig"]:
        yield Finding(
            ADVICE,
            f"{name}: a MIG slice",
            "It has fewer SMs and shares power with its neighbours: figures do not compare with a whole card's.",
            "sudo nvidia-smi -mig 0 (ends all work on the card)",
        )
    if facts["mps"]:
        yield Finding(
            PROBLEM,
            f"{name}: the Multi-Process Service runs here",
            "Kernels of other processes may run on the same SMs at the same time, unseen.",
            "echo quit | sudo nvidia-cuda-mps-control",
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
        )
    enforced = facts["enforced_power_limit_w"]
    if enforced is not None and limit is not None and enforced < limit:
        yield Finding(
            ADVICE,
            f"{name}: {enforced:g} W are enforced, below its own limit of {limit:g} W",
            "Something else than the card limits its power (its slot, its rack); long kernels will be slower for it.",
            f"nvidia-smi -i {index} -q -d POWER, then ask who runs the machine",
        )
    reasons = facts["clock_event_reasons"] or 0
    slowed = clock_events.slowdowns(reasons)
    if slowed:
        yield Finding(
            PROBLEM,
            f"{name}: clocks are held down now ({', '.join(slowed)}), {facts['temperature_c']} C",
            "Timings are those of a throttled card.",
            "let it cool down, and see to its cooling and power",
        )
    set_to, default_clock = facts["application_sm_clock_mhz"], facts["default_application_sm_clock_mhz"]
    lowered = set_to is not None and default_clock is not None and set_to < default_clock
    if reasons & clock_events.APPLICATION_CLOCKS or lowered:
        yield Finding(
            ADVICE,
            f"{name}: application clocks are set" + (f" ({set_to} MHz, default {default_clock})" if lowered else ""),
            "The clock is fixed below what the card could reach; fine for comparisons, not for peak figures.",
            f"sudo nvidia-smi -i {index} -rac; sudo nvidia-smi -i {index} -rgc",
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: `2.13.0+cpu` -> (2, 13)."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
