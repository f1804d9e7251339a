"""Is this machine fit to measure? What is missing, why it matters to a timing, and the command that mends it.

Imports no torch and makes no CUDA context: it also serves where torch is broken. What is looked at stands in
`examination.py`, one function a topic.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import click

from attnbench.machine.facts import installed_version
from attnbench.machine.findings import (
    ADVICE,
    NOT_APPLICABLE,
    OK,
    PROBLEM,
    Finding,
    cpu_findings,
    disk_findings,
    doubts,
    gpu_findings,
    memory_findings,
    torch_findings,
)
from attnbench.machine.nvml import gpus
from attnbench.screen import columns, shell_command, wrapped

_COLORS = {OK: "green", ADVICE: "yellow", PROBLEM: "red", NOT_APPLICABLE: "bright_black"}
_MARGIN = " " * 15
# Where the output is no terminal.
_LOG_COLUMNS = 110
# So many fit into one line with what to do.
_DOUBTS_SHOWN = 3


def all_findings() -> list[Finding]:
    """Everything that is looked at, in the order of the report."""
    return [finding for topic in TOPICS for finding in topic()]


def run_doctor() -> int:
    """Prints the findings; the exit status is 3 where there is a problem, else 0."""
    findings = all_findings()
    for finding in findings:
        severity = f"{finding.severity:<{len(_MARGIN)}}"
        first, *further = wrapped(severity + finding.what, _MARGIN)
        click.secho(severity, fg=_COLORS[finding.severity], nl=False)
        click.echo(first.removeprefix(severity))
        for line in (*further, *details(finding)):
            click.echo(line)
    click.echo(verdict(findings))
    return 3 if any(finding.severity == PROBLEM for finding in findings) else 0


def details(finding: Finding) -> Iterator[str]:
    """The lines below a finding: why it matters, and the way out, of which a command can be copied."""
    if finding.why:
        yield from wrapped(_MARGIN + finding.why, _MARGIN, columns() or _LOG_COLUMNS)
    if finding.mend and ", " in finding.mend:  # words
        yield from wrapped(f"{_MARGIN}-> {finding.mend}", f"{_MARGIN}   ")
    elif finding.mend:
        yield from shell_command(finding.mend.split(), f"{_MARGIN}-> ", quoted=True)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: what the findings come to."""
    problems, advice = (sum(finding.severity == kind for finding in findings) for kind in (PROBLEM, ADVICE))
    if problems:
        return f"not fit to measure: {_count(problems, 'problem')}, {_count(advice, 'piece')} of advice"
    return f"fit to measure; {_count(advice, 'piece')} of advice" if advice else "fit to measure"


def doubt_line(device: str) -> str:
    """What makes figures of a device doubtful, in one line for the beginning of a run; "" where nothing does."""
    told = [finding.what for finding in doubts(device)]
    if not told:
        return ""
    more = f" and {len(told) - _DOUBTS_SHOWN} more" if len(told) > _DOUBTS_SHOWN else ""
    return f"figures will be doubtful: {', '.join(told[:_DOUBTS_SHOWN])}{more} (attnbench doctor: why, and what to do)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# What `doctor` looks at, one function a topic. Reads no torch; each topic is a moment's work.


def backend_findings() -> Iterator[Finding]:
    """Backends by what keeps them from running; a reason names its own way out."""

    from attnbench.backends import builtin
    from attnbench.hopper.schedules import WAY_OUT

    groups: dict[str | None, list[str]] = defaultdict(list)
    for name, backend in builtin().items():
        needs_gpu = "cpu" not in backend.devices and not gpus()
        groups["" if needs_gpu else backend.unavailable()].append(name)
    for reason, names in groups.items():
        listed = ", ".join(without_schedules(names))
        if reason is None:
            yield Finding(OK, f"backends that can run: {listed}")
        elif reason == "":
            yield Finding(NOT_APPLICABLE, f"backends that need a GPU: {listed}")
        elif reason.endswith(WAY_OUT):
            continue  # told with the kernels
        elif "pip install" in reason:
            what, _, mend = reason.rpartition(": ")
            yield Finding(ADVICE, f"{listed}: {what}", "The run goes on without it.", mend)
        else:
            yield Finding(NOT_APPLICABLE, f"{listed}: {reason}")
    if gpus() and installed_version("nvidia-cudnn-frontend") is None:
        yield Finding(
            ADVICE,
            "nvidia-cudnn-frontend is not installed",
            "cudnn then has no e4m3, and no causal mask where seqlen_q != seqlen_k.",
            "pip install --no-deps nvidia-cudnn-frontend",
        )


def without_schedules(names: Sequence[str]) -> list[str]:
    """`hopper (and 9 schedules)` for a kernel and its schedules in brackets, which are `hopper` to who looks at a
    machine."""
    schedules = Counter(name.partition("[")[0] for name in names if "[" in name)
    named = dict.fromkeys(name.partition("[")[0] for name in names)
    return [f"{name} (and {_count(schedules[name], 'schedule')})" if schedules[name] else name for name in named]


def kernel_findings() -> Iterator[Finding]:
    from attnbench.hopper.schedules import FILES, missing
    from attnbench.hopper.toolchain import KERNELS, NVCC_WHEELS, PINNED_NVCC, find_nvcc
    from attnbench.machine_code.disassembler import ToolMissing

    if not KERNELS.is_dir():
        yield Finding(NOT_APPLICABLE, "our own kernels: their sources are not part of this installation")
        return
    try:
        yield Finding(OK, f"nvcc {find_nvcc().version} (kernels are checked with {PINNED_NVCC})")
    except ToolMissing:
        yield Finding(
            ADVICE,
            "no nvcc",
            "Our own kernels cannot be built; every other backend runs.",
            f"pip install --no-deps {' '.join(NVCC_WHEELS)}",
        )
    reasons = dict.fromkeys(filter(None, map(missing, FILES)))
    if not reasons:
        yield Finding(OK, "our own kernels are built and fresh")
    elif not any(gpu.compute_capability == (9, 0) for gpu in gpus()):
        yield Finding(NOT_APPLICABLE, "our own kernels: they run on compute capability 9.0 only (H100, H200)")
    else:
        for reason in reasons:
            what, _, mend = reason.partition("; build it: ")
            yield Finding(ADVICE, what, "The backends hopper that use it stay out of the run.", mend)


TOPICS = (
    torch_findings,
    gpu_findings,
    cpu_findings,
    memory_findings,
    disk_findings,
    backend_findings,
    kernel_findings,
)
