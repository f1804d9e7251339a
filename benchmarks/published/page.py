"""The page of published kernels: one row a kernel, then what was found, from run directories."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UserError
from attnbench.markdown import bullets, code, plain, table
from attnbench.records import store
from attnbench.records.record import LIKELY_CAUSE, Record
from attnbench.report.causes import FAILED, failures, first_line, size
from attnbench.units import count
from benchmarks.published.adapters import Adapter

PAGE = "docs/published-kernels.md"
MARK = "<!-- Written by `make published` from run directories. -->"

RIGHT, ZEROS = "right", "right only where masked lanes hold 0"
WRONG, ROUNDING, HAZARD, INPUTS = "wrong", "over the limits by rounding", "hazard", "changes its inputs"
RAISES, NOT_RUN = "raises", "does not run"
# The better ones first.
WORSE = (RIGHT, ZEROS, NOT_RUN, RAISES, INPUTS, ROUNDING, HAZARD, WRONG)
# How a likely cause begins that names none, and how far over its limits rounding may be where nothing else is said.
UNNAMED, LITTLE = ("all rows are wrong", "the output is right, and only the lse is wrong"), 4.0
# How likely causes begin that are matters of rounding (attnbench/correctness/noise.py, hypotheses.py).
PRECISION = ("precision", "accumulation", "bias: ", "no row stands out: precision everywhere")

HEAD = f"""{MARK}

# Published kernels

Attention kernels that others published, from their packages as they are, judged on a CPU: `make published` installs
each package at the version named here, runs its public entry in the interpreters ([Triton](how-to/triton.md),
[Pallas](how-to/pallas.md)) over `benchmarks/published/suite.yaml`, and writes this page. Nothing was timed, nothing ran
on a GPU. The suite has dense attention, full and causal, fp16 and bf16 (e4m3 where a package's entry takes it), lengths
on and off the tiles, unequal lengths, grouped heads. A limit that a package documents, or that its code refuses, is no
fault: those cases are not judged, and the page says which.
"""
MEANS = {
    RIGHT: "every judged case is within [the limits](explanation/correctness.md), with NaN in masked lanes and another "
    "order of programs too",
    ZEROS: "so with 0 in masked lanes of loads that name no `other`, and not with NaN there; Triton's documentation "
    "leaves these lanes undefined: no fault on hardware that gives 0",
    WRONG: "a result is over the limits, and not by rounding",
    ROUNDING: "a result is over the limits, and no row stands out: such as sums kept in the inputs' type, a scale "
    "multiplied into q before the scores, or P cut off to TF32 and not rounded",
    HAZARD: "an access outside of every tensor, or a race, whatever the result",
    INPUTS: "a tensor that the caller gave holds other numbers afterwards",
    RAISES: "the package or Triton's compiler raises in cases that the package does not refuse",
    NOT_RUN: "no case could be judged",
}
CARE = """A wrong result was also held against fp64 directly, and, where Triton's own interpreter runs the kernel in
fp16, against that one: the notes say so. What is wrong here may be mended since: version and date say what was judged.
"""


@dataclass(frozen=True)
class Judged:
    """One kernel of an adapter with its records. log: the last line that its run printed, where there are none."""

    adapter: Adapter
    kernel: str
    records: tuple[Record, ...]
    date: str
    log: str

    def by_status(self) -> Counter[str]:
        return Counter(record.kind or record.status for record in self.records)

    @property
    def verdicts(self) -> list[str]:
        """Of what failed, the worst first; else one."""
        found = self.by_status()
        if not found["ok"] and not found["incorrect"] and not found["hazard"] and not found["contract"]:
            return [NOT_RUN]
        wrong = WRONG if any(not rounded(r) for r in self.records if r.status == "incorrect") else ROUNDING
        kinds = {"incorrect": wrong, "hazard": HAZARD, "contract": INPUTS}
        told = [word for kind, word in kinds.items() if found[kind]]
        if any(found[kind] for kind in found if kind not in (*kinds, "ok", "unsupported")):
            told.append(RAISES)
        if found["ok"] and not (found["incorrect"] or found["hazard"]):
            told.insert(0, ZEROS if self.undefined else RIGHT)
        return told

    @property
    def undefined(self) -> list[str]:
        """Source lines of loads whose masked lanes decide results."""
        lines: set[str] = set()
        for record in self.records:
            lines |= set(((record.kernel or {}).get("interpreted") or {}).get("undefined", ()))
        return sorted(lines)

    @property
    def smallest(self) -> Record | None:
        """The failed case with the least to compute; a wrong result before rounding, and that before anything else."""
        failed = [record for record in self.records if record.status in FAILED]
        return min(failed, key=lambda r: (r.status != "incorrect", rounded(r), *size(r.case)), default=None)

    @property
    def cause(self) -> str:
        record = self.smallest
        if record is None:
            return ""
        return record.likely_cause or what_happened(record)


def what_happened(record: Record) -> str:
    """The first line of the reason, without the likely cause, and an exception without its module."""
    return re.sub(r"^(?:\w+\.)+(?=\w+Error:)", "", first_line(record.reason).partition(LIKELY_CAUSE)[0])


def rounded(record: Record) -> bool:
    """Whether it is over its limits by rounding: by its likely cause, or little and in all rows alike."""
    if record.likely_cause.startswith(PRECISION):
        return True
    checks = record.accuracy.checks if record.accuracy else ()
    return record.likely_cause.startswith(UNNAMED) and all(check.value <= LITTLE * check.limit for check in checks)


def judged(adapters: Iterable[Adapter], runs: Path) -> Iterator[Judged]:
    for adapter in adapters:
        records, date, log = _read(runs / adapter.name)
        for kernel in adapter.kernels:
            yield Judged(adapter, kernel, tuple(r for r in records if r.backend == kernel), date, log)


def _read(run: Path) -> tuple[Sequence[Record], str, str]:
    log = run.with_name(f"{run.name}.log")
    last = [line for line in log.read_text().splitlines() if line.strip()][-1:] if log.is_file() else []
    try:
        found = store.read(run)
    except UserError:
        return (), "", "".join(last)
    return found.records, str(found.environment.get("collected_utc", ""))[:10], ""


def page(adapters: Sequence[Adapter], runs: Path) -> str:
    kernels = list(judged(adapters, runs))
    rows = [_row(item) for item in kernels]
    heads = ["package", "kernel", "verdict", "smallest failing case", "likely cause", "judged", "with", "date"]
    packages = {item.adapter.package[0] for item in kernels}
    parts = [
        HEAD,
        table(["verdict", "means"], MEANS.items(), left=2),
        CARE,
        f"{count(len(kernels), 'kernel')} of {count(len(packages), 'package')}. Packages by their worst verdict: "
        f"{_counted(kernels)}.",
        table(heads, rows, left=len(heads)),
        "## Notes",
        *(_section(item) for item in kernels),
        "## Again",
        "Each package has a thin adapter in `benchmarks/published/`, which holds none of its code. One of them:\n\n"
        "    python -m benchmarks.published --only sageattention\n\n"
        "Its run directory is in `build/published/runs/`; `attnbench report` and `attnbench repro` read it.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _counted(kernels: Sequence[Judged]) -> str:
    worst: dict[str, str] = {}
    for item in kernels:
        package = item.adapter.package[0]
        worst[package] = max(worst.get(package, RIGHT), item.verdicts[0], key=WORSE.index)
    return ", ".join(f"{times} {verdict}" for verdict, times in Counter(worst.values()).most_common())


def _row(item: Judged) -> list[str]:
    found = item.by_status()
    of = len(item.records) - found["unsupported"]
    smallest = item.smallest
    failed = item.verdicts != [RIGHT] and item.verdicts != [ZEROS] and smallest is not None
    versions = dict(requirement.split("==") for requirement in item.adapter.requirements)
    language = (
        f"Triton {versions['triton']}" if item.adapter.triton else f"jax {versions['jax']}, {item.adapter.interpret}"
    )
    return [
        " ".join(item.adapter.package), code(item.kernel), ", ".join(item.verdicts),
        code(smallest.case_key) if failed and smallest else "—",
        plain(item.cause if failed else item.log) or "—", f"{found['ok']} of {of} right", language, item.date or "—",
    ]  # fmt: skip


def _section(item: Judged) -> str:
    """What a row has no room for: what was not judged and why, every kind of failure, undefined loads, the note."""
    lines = []
    refused = Counter(first_line(record.reason) for record in item.records if record.status == "unsupported")
    for reason, times in refused.most_common():
        lines.append(f"not judged in {count(times, 'case')}: {plain(reason)}")
    for failure in failures((record.backend, record) for record in item.records):
        smallest = min(failure.records, key=lambda record: size(record.case))
        told = f"{failure.kind} in {count(len(failure.records), 'case')}, the smallest {code(smallest.case_key)}"
        if failure.kind == "incorrect":
            causes = "; ".join(f"{plain(cause)} ({count(times, 'case')})" for cause, times in failure.causes if cause)
            lines.append(f"{told}: {plain(what_happened(smallest))}. Likely causes: {causes}")
        else:
            lines.append(f"{told}: {plain(what_happened(smallest))}")
    if item.undefined:
        lines.append(f"masked lanes decide results at {', '.join(map(code, item.undefined))}")
    if item.adapter.note:
        lines.append(plain(item.adapter.note))
    return f"### {item.kernel}\n\n{item.adapter.about}\n\n{bullets(lines)}"
