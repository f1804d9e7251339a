"""The work of `selftest`, in units that processes share: planted bugs on one problem, right variants on many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.backend import ContractError
from attnbench.case import Case
from attnbench.correctness.probes import PROBES
from attnbench.planted import BUGS
from attnbench.planted_bug import Planted
from attnbench.planted_forward import Choices, TiledForward
from attnbench.settings import Checks, Factors, Timing
from attnbench.worker.problem import Bench, Phases
from attnbench.worker.trial import BenchLab, poisoned_memory, run_trial

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
    oracle: str = "auto"
    bugs: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()

    def run(self) -> dict[str, dict[str, str]]:
        """By bug, and by column: the rule that caught it, or "" where none did."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        bench = Bench(Case.make(**self.case), "cpu", Checks(repeats=REPEATS, oracle=self.oracle), Timing(), 0, Phases())
        found = {}
        for kind in BUGS:
            bug = kind()
            if bug.unsupported(bench.case) is None and bug.name in (self.bugs or (bug.name,)):
                found[bug.name] = {}
                for column, caught in examine(bench, bug, self.probes or tuple(PROBES)):
                    found[bug.name][column] = caught
                    if caught and not self.exhaustive:
                        break
        return found


def examine(bench: Bench, bug: Planted, probes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(column, rule that caught the bug or "") of the ordinary checks and of the probes that apply."""
    record = run_trial(bench, bug, timed=False)
    if record.status == "error":
        yield OWN, record.kind
    else:
        yield OWN, record.accuracy.failures[0].rule if record.accuracy.failures else ""
    lab = BenchLab(bench, Factors(), bug)
    for name in probes:
        probe = PROBES[name]
        if probe.cannot(bench.case) is None:
            with poisoned_memory():
                yield name, _caught(probe.run, lab, bug)


def _caught(run: Any, lab: BenchLab, backend: TiledForward) -> str:
    try:
        failed = [check for check in run(lab, backend) if not check.passed]
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
)
SIXTEEN_BIT_ONLY = ("p_fp32", "normalize_first", "lazy_rescale", "partials_16bit")


def right_variants(dtype: str) -> tuple[Choices, ...]:
    if dtype in ("fp16", "bf16"):
        return RIGHT
    return tuple(choices for choices in RIGHT if not any(getattr(choices, name) for name in SIXTEEN_BIT_ONLY))


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
            bench = Bench(case, "cpu", Checks(repeats=0), Timing(), 0, Phases())
            for choices in right_variants(case.dtype):
                record = run_trial(bench, TiledForward(choices), timed=False)
                if record.status != "unsupported":
                    judged += 1
                if record.status not in ("ok", "unsupported"):
                    accused.append(f"{case.key}  {choices}  {record.reason}")
        return judged, accused
