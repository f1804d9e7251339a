"""Which stored runs a new one is compared with: those of the same machine and settings, rather those that held still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from attnbench.comparable import differences_of_machines, disqualified, suspicion
from attnbench.sides import Side
from attnbench.store import Run
from attnbench.stored_baseline import FEWEST_RUNS


@dataclass(frozen=True, slots=True)
class Usable:
    """The stored runs that are compared with. left_out: why others are not. forced: why they could not be compared.
    doubts: what speaks against runs that are used."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def usable(base: Side, new: Side, force: bool) -> Usable:
    """A run that is disqualified is left out where enough others are there; else it is used, and its drift widens what
    the runs are apart."""
    refusals = {run.name: differences_of_machines(run, new.runs[0]) for run in base.runs}
    alike = [run for run in base.runs if force or not refusals[run.name]]
    told = _told(refusals, len(base.runs))
    still = [run for run in alike if not disqualified(run)]
    if len(still) >= FEWEST_RUNS and not force:
        drifted = [run for run in alike if disqualified(run)]
        return Usable(tuple(still), told + _suspicions(drifted, base), doubts=_suspicions(still, base))
    return Usable(tuple(alike), () if force else told, told if force else (), _suspicions(alike, base))


def _suspicions(runs: Sequence[Run], base: Side) -> tuple[str, ...]:
    words = {run.name: (f"marked suspect: {suspicion(run)}",) for run in runs if suspicion(run)}
    return _told(words, len(base.runs))


def _told(reasons: dict[str, Sequence[str]], count: int) -> tuple[str, ...]:
    """Each reason once, with the runs that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for name, found in reasons.items():
        for reason in found:
            by_reason.setdefault(reason, []).append(name)
    return tuple(f"{reason} ({_named(names, count)})" for reason, names in by_reason.items())


def _named(names: Sequence[str], count: int) -> str:
    if len(names) == count > 1:
        return "every run of the baseline"
    return f"run{'' if len(names) == 1 else 's'} {', '.join(names)}"
