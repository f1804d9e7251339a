"""Our kernels as they ran in the CPU emulation: right or wrong, and what they did, counted. No time of theirs is shown.

Counts are held against compulsory traffic (q, k, v read once, out written once) and against standard attention's, which
writes and reads S and P (Dao et al. 2022, Algorithm 0 and theorem 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.case import Case, compulsory_bytes, standard_bytes, visible_scores
from attnbench.markdown import code, plain, table
from attnbench.records.record import EMULATED
from attnbench.records.result import Result
from attnbench.report.data import ReportData, family_title
from attnbench.units import lengths, show_bytes, significant

HEADERS = (
    "seqlen", "inputs", "kernel", "verdict", "error / limit", "read", "written", "of compulsory", "of standard",
    "k, v loaded", "FLOP issued / useful", "ex2 / score", "barrier waits",
)  # fmt: skip
PIPES = {"tensor": "tensor", "issue": "issue", "mufu": "MUFU", "alu": "ALU", "fp32": "FP32", "chain": "chain"}
ABOUT_LOADS = (
    "Read from the machine code for sm_90a (docs/reference/machine-code.md), nothing measured: clocks of each pipe for "
    "128 keys in the main loop without masking, of all warpgroups of a CTA; chain: of one warpgroup by itself."
)
ABOUT = (
    "The sources of kernels/, compiled for the CPU and run in an emulation of Hopper's asynchrony; judged like every "
    "backend, never timed. Bytes are those between global memory and the multiprocessors, with no cache in between "
    "(the two-level model of Dao et al. 2022, section 3.2): TMA copies, and ordinary loads and stores as each thread "
    "asks for them. Compulsory: q, k, v read once, out and lse written once. Standard: that, and S and P written and "
    "read once each in 16 bits. FLOP issued counts whole tiles, useful only what the mask keeps; ex2 / score: "
    "exponential instructions per score that the mask keeps."
)


@dataclass(frozen=True)
class Emulated:
    """A record of a kernel that ran in the emulation."""

    case: Case
    series: str
    result: Result

    @property
    def counted(self) -> Mapping[str, Any] | None:
        kernel = self.result.record.kernel or {}
        counts: Mapping[str, Any] | None = kernel.get("counted")
        return counts

    @property
    def traffic_bytes(self) -> int | None:
        counts = self.counted
        return None if counts is None else counts["global_read_bytes"] + counts["global_write_bytes"]


def emulated_section(data: ReportData) -> list[str]:
    """Nothing where no kernel ran in the emulation."""
    records = [
        Emulated(case, series, result)
        for (case, series), result in data.cells.items()
        if EMULATED in (result.record.kernel or {})
    ]
    if not records:
        return []
    parts = ["## Our kernels, emulated", ABOUT, "\n".join(_headlines(records)), *_loads(records)]
    for family in data.families:
        own = [record for case in family.cases for record in records if record.case == case]
        if own:
            rows = [_row(record) for record in own]
            parts += [f"### {family_title(own[0].case)}", table(list(HEADERS), rows, left=4)]
    return parts


def _headlines(records: list[Emulated]) -> Iterator[str]:
    verdicts = Counter(_verdict(record.result) for record in records)
    how = Counter(_how(record.result) for record in records)
    yield f"- {', '.join(f'{number} {verdict}' for verdict, number in verdicts.items())} ({'; '.join(how)})."
    by_dim: dict[tuple[str, int], list[Emulated]] = {}
    for record in records:
        if record.traffic_bytes is not None and record.case.inputs == "normal":
            by_dim.setdefault((record.case.dtype, record.case.head_dim), []).append(record)
    for (dtype, head_dim), group in by_dim.items():
        group.sort(key=lambda record: record.case.seqlen_k)
        shortest, longest = group[0].case.seqlen_k, group[-1].case.seqlen_k
        if shortest == longest:
            continue
        ends = [[each for each in group if each.case.seqlen_k == seqlen] for seqlen in (shortest, longest)]
        standard = [_range([_share(each, standard_bytes(each.case)) for each in end]) for end in ends]
        compulsory = [_range([_share(each, compulsory_bytes(each.case)) for each in end]) for end in ends]
        yield (
            f"- {dtype}, head_dim {head_dim}: from seqlen {lengths(shortest)} to {lengths(longest)} the traffic goes "
            f"from {compulsory[0]} to {compulsory[1]} times the compulsory bytes, and from {standard[0]} to "
            f"{standard[1]} of standard attention's."
        )


def _loads(records: list[Emulated]) -> list[str]:
    """A row a kernel: clocks that a pass of its main loop takes of each pipe, as its machine code says."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        kernel = record.result.record.kernel or {}
        if "loads" in kernel:
            found.setdefault(kernel["name"], kernel["loads"])
    if not found:
        return []
    rows = [
        [code(name), plain(loads["compiler"]), *(f"{loads[pipe]:,.0f}" for pipe in PIPES), plain(loads["limit"])]
        for name, loads in sorted(found.items())
    ]
    headers = ["kernel", "compiler", *PIPES.values(), "limited by"]
    return ["### What their main loops need", ABOUT_LOADS, table(headers, rows, left=2)]


def _share(record: Emulated, whole: int) -> float:
    assert record.traffic_bytes is not None, "records without counts are left out before"
    return record.traffic_bytes / whole


def _range(values: list[float]) -> str:
    low, high = significant(min(values), 3), significant(max(values), 3)
    return low if low == high else f"{low}-{high}"


def _how(result: Result) -> str:
    emulated = (result.record.kernel or {})[EMULATED]
    return f"{emulated['delivery']} delivery, {emulated['checks']} checks"


def _verdict(result: Result) -> str:
    record = result.record
    if record.status == "ok":
        return "right"
    return "hazard" if record.kind == "hazard" else "wrong" if record.status == "incorrect" else "error"


def _row(record: Emulated) -> list[str]:
    case, counts, traffic = record.case, record.counted, record.traffic_bytes
    seqlen = lengths(case.seqlen_k)
    if case.seqlen_q != case.seqlen_k:
        seqlen = f"{lengths(case.seqlen_q)} x {seqlen}"
    scheme = f"{case.inputs}, Hadamard" if case.hadamard else case.inputs
    start = [seqlen, scheme, code(record.series), _verdict(record.result), _closest(record.result)]
    if counts is None or traffic is None:
        return [*start, *("—" for _ in HEADERS[len(start) :])]
    return [
        *start,
        show_bytes(counts["global_read_bytes"]),
        show_bytes(counts["global_write_bytes"]),
        f"{significant(traffic / compulsory_bytes(case), 3)} x",
        f"{significant(traffic / standard_bytes(case), 3)} x",
        f"{significant(counts['reread'], 3)} x",
        f"{significant(counts['tensor_flops'] / counts['useful_flops'], 3)} x",
        significant(counts["exponentials"] / visible_scores(case), 3),
        f"{counts['barrier_waits']:,}",
    ]


def _closest(result: Result) -> str:
    """The largest share of its limit that any rule's value takes."""
    accuracy = result.record.accuracy
    shares = [check.value / check.limit for check in accuracy.checks if check.limit > 0] if accuracy else []
    return significant(max(shares), 2) if shares else "—"
