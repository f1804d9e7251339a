"""Which stored runs a new one is compared with: those of its own card and settings, rather those that held still.

Where its card has too few, one run each of several other cards of its kind: what cards of one kind are apart is then in
the spread of the stored runs, as what sessions are apart is. Several runs of one card would pass for as many cards.
What is said of cards goes for hosts without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnbench.comparable import differences_of_machines, disqualified, of_one_kind, one_of_its_kind, suspicion
from attnbench.records.environment import gpu_of
from attnbench.records.store import Run
from attnbench.sides import Side
from attnbench.stored_baseline import FEWEST_RUNS
from attnbench.units import count


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
    refusals = [(run, differences_of_machines(run, new.runs[0])) for run in base.runs]
    alike = [run for run, reasons in refusals if force or not reasons]
    told = _told(refusals, base)
    still = [run for run in alike if not disqualified(run)]
    if len(still) >= FEWEST_RUNS and not force:
        drifted = [run for run in alike if disqualified(run)]
        return Usable(tuple(still), told + _suspicions(drifted, base), doubts=_suspicions(still, base))
    if len(alike) < FEWEST_RUNS and not force:
        kin = [run for run in base.runs if of_one_kind(run, new.runs[0])]
        cards = _one_each(kin)
        if len(cards) >= FEWEST_RUNS:
            return _of_its_kind(cards, kin, base, new)
        if len(kin) > len(alike):
            found = len({one_of_its_kind(run) for run in kin})
            way_out = f"{_noun(new)}s of the same kind stand for each other from {FEWEST_RUNS} of them on"
            told += (f"{way_out}; stored runs are of {found}",)
    return Usable(tuple(alike), () if force else told, told if force else (), _suspicions(alike, base))


def _of_its_kind(cards: Sequence[Run], kin: Sequence[Run], base: Side, new: Side) -> Usable:
    """One run each of several cards of NEW's kind."""
    rest = [(run, () if run in kin else differences_of_machines(run, new.runs[0])) for run in base.runs]
    told = _told(rest, base)
    if len(kin) > len(cards):
        told += (f"{count(len(kin) - len(cards), 'further run')} of the same {_noun(new)}s",)
    own = count(sum(one_of_its_kind(run) == one_of_its_kind(new.runs[0]) for run in kin), "stored run")
    others = f"{len(cards)} {_noun(new)}s of its kind, one run each"
    words = f"{own} of NEW's own {_noun(new)}, so it is held against {others}"
    return Usable(tuple(cards), told, doubts=(words, *_suspicions(cards, base)))


def _one_each(runs: Iterable[Run]) -> list[Run]:
    """The last run of each card that held still, by name."""
    return list({one_of_its_kind(run): run for run in runs if not disqualified(run)}.values())


def _noun(side: Side) -> str:
    return "card" if gpu_of(side.runs[0].environment) else "host"


def _suspicions(runs: Sequence[Run], base: Side) -> tuple[str, ...]:
    return _told([(run, (f"marked suspect: {suspicion(run)}",)) for run in runs if suspicion(run)], base)


def _told(reasons: Iterable[tuple[Run, Sequence[str]]], base: Side) -> tuple[str, ...]:
    """Each reason once, with the runs that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for run, found in reasons:
        for reason in found:
            by_reason.setdefault(reason, []).append(base.name_of(run))
    return tuple(f"{reason} ({_named(names, len(base.runs))})" for reason, names in by_reason.items())


def _named(names: Sequence[str], count: int) -> str:
    if len(names) == count > 1:
        return "every run of the baseline"
    return f"run{'' if len(names) == 1 else 's'} {', '.join(names)}"
