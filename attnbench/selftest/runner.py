"""`attnbench selftest`: plants known bugs and shows that the checks catch each one and accuse no right kernel.

A judge that nobody has seen fail proves nothing. Every bug of `planted` runs through the ordinary checks and probes in
every dtype it applies to, on a short problem (all probes, the matrix) and a long one; then right kernels that differ in
tile order, tile width, split keys, P's rounding and rescaling run on many shapes, seeds and inputs.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attnbench.backend import ContractError
from attnbench.case import DTYPES, Case
from attnbench.contract import poisoned_memory
from attnbench.correctness.probes import PROBES
from attnbench.records.record import (
    LSE_ERROR,
    MAX_ERROR,
    NON_FINITE,
    RELATIVE_RMSE,
    REPEATS_DIFFER,
    RMS_RATIO,
    WORST_ROW,
)
from attnbench.selftest.bugs import BUGS
from attnbench.selftest.forward import Choices, Planted, TiledForward
from attnbench.settings import Checks, Factors, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import LiveProbeContext, run_trial

# Not square, so that mask corners differ; the last tile short, so that its tail shows; two query heads a group.
SHORT = {"batch": 1, "seqlen_q": 128, "seqlen_k": 161, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}
# More queries than keys; and single queries of three batch elements, whose grouped heads a kernel may pack.
MORE_QUERIES = {**SHORT, "seqlen_q": 161, "seqlen_k": 128, "causal": True}
DECODING = {**SHORT, "batch": 3, "seqlen_q": 1, "causal": False}
LONG = {**SHORT, "seqlen_k": 4096 + 33}
# Where rounding hides what kernels do in 16 bits; rows enough for the rule that finds it all the same.
SHARP = {
    "batch": 1, "seqlen_q": 1024, "seqlen_k": 1024, "num_heads": 2, "head_dim": 64, "dtype": "bf16", "causal": False,
}  # fmt: skip
SHARP_LONG = {**SHARP, "seqlen_q": 128, "seqlen_k": 4096, "causal": True}
# Where every published tolerance passes a mask that is off by one on N(0, 1) inputs.
LONGEST = {
    **SHORT, "seqlen_q": 1024, "seqlen_k": 65536, "num_heads": 1, "num_heads_kv": 1, "dtype": "bf16", "causal": True,
}  # fmt: skip
OFF_BY_ONE = ("mask sees one more", "mask sees one less")
NEEDLES = ("needle", "needle_hidden")
# Bugs that show without a causal mask only; no causal problem would plant them.
OF_FULL = ("tail unmasked", "causal always", "top left always", "lse of few keys in log2")
# Bugs that show on these problems only.
OF_MORE_QUERIES = ("mask short with more queries", "rows without keys")
OF_PRECISION = ("scores in16 bit", "tile sums in16 bit", "small weights dropped")
OF_DECODING = ("keys at stride of queries", "third element reads second", "decoding group reversed")
# Lengths around 1, around the tile edges in use, and unequal both ways.
SHAPES = (
    (1, 1), (1, 65), (2, 2), (3, 7), (31, 31), (63, 63), (65, 64), (64, 65), (113, 113), (127, 129), (128, 128),
    (129, 127), (203, 100), (100, 203), (255, 255), (257, 257),
)  # fmt: skip
RIGHT_INPUTS = (
    "normal", "outliers", "sink", "large_logits", "rising", "falling", "needle", "needle_hidden", "needle_edges",
    "v_ones", "equal_logits", "nan_v", "nan_q", "nan_k", "low_logits", "steps", "same_sign_v", "sink_tail",
    "shifted_keys", "channel_outliers", "fp8_extremes", "v_trend", "large_sums",
)  # fmt: skip
RIGHT_SEEDS = 3
# Query and key/value heads by seed; the widest group in use only where there are this few scores, for time's sake.
HEADS = ((2, 1), (2, 2), (64, 1))
WIDE_SCORES = 65 * 64
# No multiple of the number of inputs, so that all pairs come up.
HEAD_DIMS = (64, 32, 128, 64, 256, 32, 64)
CASES_A_UNIT = 24
# One letter a rule in the matrix; a rule of a probe's own is E, for exact.
LETTERS = {
    MAX_ERROR: "M", RELATIVE_RMSE: "R", WORST_ROW: "W", RMS_RATIO: "S",
    LSE_ERROR: "L", NON_FINITE: "N", "contract": "C", "exception": "X", REPEATS_DIFFER: "D",
}  # fmt: skip
LEGEND = (
    "M max error, R RMSE, W worst row, S RMS ratio, L LSE, N not finite, C contract, D repeats differ, X raised, "
    "E the probe's own exact rule, . not caught, blank: does not apply"
)


@dataclass
class Findings:
    """caught: by (dtype, bug), the rule by column, "" where it was not caught; escaped: (dtype, bug, problem); longest:
    who caught what on the longest problem."""

    caught: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    escaped: list[tuple[str, str, str]] = field(default_factory=list)
    longest: list[str] = field(default_factory=list)
    attempts: int = 0
    judged: int = 0
    accused: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 1 if self.escaped or self.accused or not self.judged else 0


# Hands on results one by one, and may show how many of so many are there.
Watch = Callable[[Iterator[Any], int], Iterator[Any]]


def unwatched(steps: Iterator[Any], total: int) -> Iterator[Any]:
    return steps


def run_selftest(
    short: bool, say: Callable[[str], None] = print, watch: Watch = unwatched, width: int | None = None
) -> int:
    """Runs it and prints what came out; `short`: bf16 and e4m3, the short problem, a tenth of the right kernels.

    width: of the terminal, where there is one. Exit status 1 where a bug escapes or a right kernel is accused.
    """
    started = time.monotonic()
    findings = _collect(list(units(short)), watch)
    for line in matrix(findings, width):
        say(line)
    for line in findings.longest:
        say(line)
    for dtype, bug, where in findings.escaped:
        say(f"ESCAPED: {bug}, {dtype}, {where}")
    say(
        f"planted bugs: {findings.attempts} (bug, dtype, problem) combinations, "
        f"{findings.attempts - len(findings.escaped)} caught, {len(findings.escaped)} escaped"
    )
    for line in findings.accused:
        say(f"ACCUSED: {line}")
    say(f"right kernels: {findings.judged:,} kernel-shape-seed combinations, {len(findings.accused)} accused")
    say(f"{time.monotonic() - started:.0f} s; exit status {findings.exit_status}")
    return findings.exit_status


def units(short: bool) -> Iterator[BugUnit | RightUnit]:
    """The longest first, so that processes end together."""
    if not short:
        yield BugUnit(LONGEST, oracle="sampled", bugs=OFF_BY_ONE, probes=NEEDLES)
    dtypes = ("bf16", "e4m3") if short else DTYPES
    for dtype in reversed(dtypes):
        if not short:
            yield BugUnit({**LONG, "dtype": dtype, "causal": True}, exhaustive=False)
            yield BugUnit({**LONG, "dtype": dtype, "causal": False}, exhaustive=False, bugs=OF_FULL)
        yield BugUnit({**SHORT, "dtype": dtype, "causal": True}, exhaustive=not short)
        yield BugUnit({**SHORT, "dtype": dtype, "causal": False}, exhaustive=not short, bugs=OF_FULL if short else ())
        yield BugUnit({**MORE_QUERIES, "dtype": dtype}, exhaustive=not short, bugs=OF_MORE_QUERIES)
        yield BugUnit({**DECODING, "dtype": dtype}, exhaustive=not short, bugs=OF_DECODING)
    for case in (SHARP,) if short else (SHARP, SHARP_LONG):
        yield BugUnit(case, exhaustive=False, bugs=OF_PRECISION)
        yield RightUnit((case,))
    cases = list(right_cases())[:: 10 if short else 1]
    for start in range(0, len(cases), CASES_A_UNIT):
        yield RightUnit(tuple(cases[start : start + CASES_A_UNIT]))


def right_cases() -> Iterator[dict[str, Any]]:
    """Shapes x masks x dtypes x seeds; every case takes the next inputs and head_dim, so that pairs come up."""
    names, dims = itertools.cycle(RIGHT_INPUTS), itertools.cycle(HEAD_DIMS)
    for seed, dtype, causal, (seqlen_q, seqlen_k) in itertools.product(
        range(RIGHT_SEEDS), DTYPES, (False, True), SHAPES
    ):
        num_heads, num_heads_kv = HEADS[seed if seqlen_q * seqlen_k <= WIDE_SCORES else seed % 2]
        yield {
            "batch": 1 + seed % 2, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "num_heads": num_heads,
            "num_heads_kv": num_heads_kv, "head_dim": next(dims), "dtype": dtype, "causal": causal,
            "inputs": next(names), "seed": seed,
        }  # fmt: skip


def _collect(work: list[BugUnit | RightUnit], watch: Watch) -> Findings:
    """Units in as many processes as there are cores, each with one thread: the problems are small."""
    findings = Findings()
    processes = min(len(os.sched_getaffinity(0)), len(work))
    with _safe_path(), multiprocessing.get_context("spawn").Pool(processes) as pool:
        for unit, result in zip(work, watch(pool.imap(_run, work), len(work))):
            if isinstance(unit, RightUnit):
                judged, accused = result
                findings.judged += judged
                findings.accused += accused
            else:
                _take(findings, unit, result)
    return findings


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started meanwhile import nothing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def _run(unit: BugUnit | RightUnit) -> Any:
    return unit.run()


def _take(findings: Findings, unit: BugUnit, result: Mapping[str, Mapping[str, str]]) -> None:
    case = unit.case
    where = f"seqlen {case['seqlen_q']} x {case['seqlen_k']}, {'causal' if case['causal'] else 'full'}"
    for bug, columns in result.items():
        findings.attempts += 1
        if not any(columns.values()):
            findings.escaped.append((case["dtype"], bug, where))
        if case is LONGEST:
            by = ", ".join(f"{column} ({rule})" if rule else f"not by {column}" for column, rule in columns.items())
            findings.longest.append(f"{bug}, {case['dtype']}, {where}: {by}")
        elif unit.exhaustive:
            row = findings.caught.setdefault((case["dtype"], bug), {})
            for column, rule in columns.items():
                row[column] = row.get(column) or rule


def matrix(findings: Findings, width: int | None = None) -> list[str]:
    """Bug x probe of the short problem, causal and full together; column numbers are named below. Empty if not run.

    width: lines are no longer; columns that do not fit follow below.
    """
    if not findings.caught:
        return []
    columns = [OWN, *PROBES]
    numbered = list(enumerate(columns, start=1))
    longest = max(len(bug) for _, bug in findings.caught) + 1
    together = len(columns) if width is None else max(1, (width - longest - len("bf16 ")) // 3)
    lines = []
    for start in range(0, len(columns), together):
        part = numbered[start : start + together]
        lines.append(f"{'':{longest + 5}}" + "".join(f"{number:3}" for number, _ in part))
        for (dtype, bug), row in findings.caught.items():
            cells = ("" if column not in row else _letter(row[column]) for _, column in part)
            lines.append(f"{bug:{longest}}{dtype:5}" + "".join(f"{cell:>3}" for cell in cells))
    named = [f"{number} {column}" for number, column in enumerate(columns, start=1)]
    return [*lines, "columns: " + ", ".join(named), f"cells: {LEGEND}"]


def _letter(rule: str) -> str:
    return LETTERS.get(rule, "E") if rule else "."


# The work of `selftest`, in units that processes share: planted bugs on one problem, right variants on many.

# The column of the ordinary checks on the case's own inputs.
OWN = "own inputs"
# Repeats in which a nondeterministic order must differ once: of three tiles, one order in six is the first one's, and
# torch's generator is seeded, so that it differs always or never.
REPEATS = 3
# The rule that broken outputs are caught by before anybody looks at numbers.
CONTRACT = "contract"


@dataclass(frozen=True)
class BugUnit:
    """Bugs on one case. exhaustive: all probes, else up to the first that catches. bugs, probes: names; empty: all that
    apply."""

    case: dict[str, Any]
    exhaustive: bool = True
    oracle: Literal["auto", "full", "sampled"] = "auto"
    bugs: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()

    def run(self) -> dict[str, dict[str, str]]:
        """By bug, and by column: the rule that caught it, or "" where none did."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        problem = Problem(
            Case.make(**self.case), "cpu", Checks(repeats=REPEATS, oracle=self.oracle), Timing(), 0, Phases()
        )
        found: dict[str, dict[str, str]] = {}
        for kind in BUGS:
            bug = kind()
            if bug.unsupported(problem.case) is None and bug.name in (self.bugs or (bug.name,)):
                found[bug.name] = {}
                for column, caught in caught_by(problem, bug, self.probes or tuple(PROBES)):
                    found[bug.name][column] = caught
                    if caught and not self.exhaustive:
                        break
        return found


def caught_by(problem: Problem, bug: Planted, probes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(column, rule that caught the bug or "") of the ordinary checks and of the probes that apply."""
    record = run_trial(problem, bug, timed=False)
    if record.kind is not None:
        yield OWN, record.kind
    else:
        assert record.accuracy is not None, "planted bugs run on cases that they support"
        yield OWN, record.accuracy.failures[0].rule if record.accuracy.failures else ""
    context = LiveProbeContext(problem, Factors(), bug)
    for name in probes:
        probe = PROBES[name]
        if probe.cannot(problem.case) is None:
            with poisoned_memory():
                yield name, _caught(probe.run, context, bug)


def _caught(run: Any, context: LiveProbeContext, backend: TiledForward) -> str:
    try:
        failed = [check for check in run(context, backend) if not check.passed]
    except ContractError:
        return CONTRACT
    return failed[0].rule if failed else ""


# What right kernels differ in. The lazy rescale of 16-bit kernels (FlashAttention-4: 2^8) would saturate 8-bit dtypes.
# NOTE: one of up to 2^4 does not saturate e5m2, but rounds the largest weights, which the emulation holds exactly: E1
# tells the two apart, rightly.
RIGHT = (
    Choices(tile_n=128),
    Choices(tile_n=32, backwards=True),
    Choices(tile_n=64, splits=2),
    Choices(tile_n=80, splits=3),
    Choices(tile_n=224),
    Choices(tile_n=16, splits=8, partials_16bit=True),
    Choices(tile_n=128, sum_rounded=True),
    Choices(tile_n=64, cubic_exp2=True),
    Choices(tile_n=64, p_fp32=True),
    Choices(tile_n=64, normalize_first=True),
    Choices(tile_n=64, lazy_rescale=5.5),
    Choices(tile_n=96, top_left=True),
    Choices(tile_n=64, int8_scores=True),
)
NOT_IN_8_BITS = ("p_fp32", "normalize_first", "lazy_rescale", "partials_16bit", "int8_scores")
# What rounds to fewer digits than fp32 has, and what makes no difference to it.
NOT_IN_FP32 = ("cubic_exp2", "partials_16bit", "int8_scores", "p_fp32", "sum_rounded")


def right_variants(dtype: str) -> tuple[Choices, ...]:
    barred = {"fp16": (), "bf16": (), "fp32": NOT_IN_FP32}.get(dtype, NOT_IN_8_BITS)
    return tuple(choices for choices in RIGHT if not any(getattr(choices, name) for name in barred))


@dataclass(frozen=True)
class RightUnit:
    """Right variants on problems, each with its own inputs. None may be accused."""

    cases: tuple[dict[str, Any], ...]

    def run(self) -> tuple[int, list[str]]:
        """How many combinations were judged, and every accusation."""
        import torch

        torch.set_num_threads(1)
        judged, accused = 0, []
        for fields in self.cases:
            case = Case.make(**fields)
            problem = Problem(case, "cpu", Checks(repeats=0), Timing(), 0, Phases())
            for choices in right_variants(case.dtype):
                record = run_trial(problem, TiledForward(choices), timed=False)
                if record.status != "unsupported":
                    judged += 1
                if record.status not in ("ok", "unsupported"):
                    accused.append(f"{case.key}  {choices}  {record.reason}")
        return judged, accused
