"""The two sides of a comparison. A path stands for a run, a folder of runs, or a folder of machines' folders."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.compare.comparable import differences_of_machines, disqualified, of_one_kind, one_of_its_kind, suspicion
from attnbench.compare.copies import shared, without_copies
from attnbench.compare.differences import FEWEST_RUNS
from attnbench.records.environment import gpu_of
from attnbench.records.store import SUITE, Run, StoreError, is_run, read
from attnbench.units import count


@dataclass(frozen=True, slots=True)
class Side:
    """The runs of one side, by name, each once. copies: runs that were left out for being another of them, in words.

    problems: lines that are no records, named by file and number.
    """

    path: Path
    runs: tuple[Run, ...]
    copies: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"{run.path / problem}" for run in self.runs for problem in run.problems)

    def name_of(self, run: Run) -> str:
        """A run's name; with its machine's folder where the runs are of several."""
        return run.name if run.path.parent in (self.path, self.path.parent) else f"{run.path.parent.name}/{run.name}"

    def __str__(self) -> str:
        return str(self.path) if is_run(self.path) else f"{self.path} ({count(len(self.runs), 'run')})"


class NoBaseline(StoreError):
    """A folder of baselines that has none for the machine that the new run was measured on, nor enough of others."""


def read_sides(base: Path, new: Path) -> tuple[Side, Side]:
    """(BASE, NEW). Where BASE is a folder of folders named by machine, the one of NEW's machine is taken; where that
    has too few runs, those of all machines, if there are enough of these to stand for one another.

    Raises StoreError for a path that holds no run and for a NEW that is among the runs of BASE, NoBaseline where BASE
    has neither.
    """
    fresh = _side(new, folder_of_machines=False)
    old = _of_machines(base, fresh) if is_folder_of_machines(base) else _side(base, folder_of_machines=True)
    same = {run.path.resolve() for run in old.runs} & {run.path.resolve() for run in fresh.runs}
    for path in sorted(same):
        raise StoreError(f"{path.name} is in BASE ({base}) and in NEW ({new}); a run is not compared with itself")
    twins = shared(old.runs, fresh.runs)
    if twins is not None:
        one, other = (run.path for run in twins)
        where = f"{one} (in BASE) holds measurements of {other} (in NEW), to the sample: one was copied from the other"
        raise StoreError(f"{where}; a run is not compared with itself, take {one} out of BASE")
    return old, fresh


def runs_of(new: Path) -> tuple[Run, ...]:
    """The runs that NEW stands for, each once. Raises StoreError as `read_sides` does."""
    return _side(new, folder_of_machines=False).runs


def runs_in(folder: Path) -> list[Path]:
    """The run directories right inside a folder, by name."""
    try:
        return sorted(path for path in folder.iterdir() if is_run(path))
    except OSError:
        return []


def is_folder_of_machines(path: Path) -> bool:
    """Whether a folder holds no run itself, and folders that do (`results/baselines/<machine>/<run>`)."""
    if is_run(path) or not path.is_dir() or runs_in(path):
        return False
    return any(runs_in(inner) for inner in path.iterdir() if inner.is_dir())


def machine_of(run: Run) -> str | None:
    """The fingerprint of the machine that a run was measured on; None where it was not recorded."""
    machine = run.environment.get("machine")
    return machine if isinstance(machine, str) else None


def _side(path: Path, folder_of_machines: bool) -> Side:
    if is_run(path):
        return Side(path, (read(path),))
    if not path.is_dir():
        raise StoreError(f"{path}: no such run directory")
    found = runs_in(path)
    if not found:
        others = ", nor folders of runs" if folder_of_machines else ""
        raise StoreError(f"{path}: not a run directory (it has no records.jsonl), and it holds none{others}")
    return _each_once(path, [read(run) for run in found])


def _each_once(path: Path, runs: Sequence[Run]) -> Side:
    kept, left_out = without_copies(runs)
    named = ((run.path.relative_to(path) for run in pair) for pair in left_out)
    return Side(path, kept, tuple(f"{copy} is a copy of {original}" for copy, original in named))


def _of_machines(base: Path, fresh: Side) -> Side:
    names = {machine_of(run) for run in fresh.runs}
    machine = next(iter(names)) if len(names) == 1 else None
    if machine is None:
        listed = ", ".join(sorted(map(str, names)))
        raise StoreError(f"{fresh.path}: its runs name no single machine ({listed}); give BASE as a folder of runs")
    folders = {path.name: runs_in(path) for path in sorted(base.iterdir()) if runs_in(path)}
    own = folders.get(machine, [])
    if len(own) < FEWEST_RUNS <= len(folders):
        return _each_once(base, [read(run) for runs in folders.values() for run in runs])
    if not own:
        made_by = commands_of_missing(base / machine, fresh.runs[0], 0)
        raise NoBaseline(
            f"{base} has no runs of this machine ({machine}), only of {', '.join(folders)}; "
            f"a baseline is made by {made_by}"
        )
    return _side(base / machine, folder_of_machines=False)


# Which stored runs a new one is compared with: those of its own card and settings, rather those that held still.
#
# Where its card has too few, one run each of several other cards of its kind: what cards of one kind are apart is then
# in the spread of the stored runs, as what sessions are apart is. Several runs of one card would pass for as many
# cards. What is said of cards goes for hosts without a GPU.


@dataclass(frozen=True, slots=True)
class UsableRuns:
    """The stored runs that are compared with. left_out: why others are not. forced: why they could not be compared.
    doubts: what speaks against runs that are used."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def usable(base: Side, new: Side, force: bool) -> UsableRuns:
    """A run that is disqualified is left out where enough others are there; else it is used, and its drift widens what
    the runs are apart."""
    refusals = [(run, differences_of_machines(run, new.runs[0])) for run in base.runs]
    alike = [run for run, reasons in refusals if force or not reasons]
    told = _told(refusals, base)
    still = [run for run in alike if not disqualified(run)]
    if len(still) >= FEWEST_RUNS and not force:
        drifted = [run for run in alike if disqualified(run)]
        return UsableRuns(tuple(still), told + _suspicions(drifted, base), doubts=_suspicions(still, base))
    if len(alike) < FEWEST_RUNS and not force:
        kin = [run for run in base.runs if of_one_kind(run, new.runs[0])]
        cards = _one_each(kin)
        if len(cards) >= FEWEST_RUNS:
            return _of_its_kind(cards, kin, base, new)
        if len(kin) > len(alike):
            found = len({one_of_its_kind(run) for run in kin})
            way_out = f"{_noun(new)}s of the same kind stand for each other from {FEWEST_RUNS} of them on"
            told += (f"{way_out}; stored runs are of {found}",)
    return UsableRuns(tuple(alike), () if force else told, told if force else (), _suspicions(alike, base))


def _of_its_kind(cards: Sequence[Run], kin: Sequence[Run], base: Side, new: Side) -> UsableRuns:
    """One run each of several cards of NEW's kind."""
    rest = [(run, () if run in kin else differences_of_machines(run, new.runs[0])) for run in base.runs]
    told = _told(rest, base)
    if len(kin) > len(cards):
        told += (f"{count(len(kin) - len(cards), 'further run')} of the same {_noun(new)}s",)
    own = count(sum(one_of_its_kind(run) == one_of_its_kind(new.runs[0]) for run in kin), "stored run")
    others = f"{len(cards)} {_noun(new)}s of its kind, one run each"
    words = f"{own} of NEW's own {_noun(new)}, so it is held against {others}"
    return UsableRuns(tuple(cards), told, doubts=(words, *_suspicions(cards, base)))


def _one_each(runs: Iterable[Run]) -> list[Run]:
    """The last run of each card that held still, by name."""
    return list({one_of_its_kind(run): run for run in runs if not disqualified(run)}.values())


def commands_of_missing(folder: Path, example: Run, there: int) -> str:
    """What makes the stored runs that FEWEST_RUNS lacks, as shell commands; they are made as `example` was.

    folder: of the baseline; where it is a run itself, all are made beside it.
    """
    if is_run(folder):
        folder, there = folder.with_name(f"{folder.resolve().name}-baseline"), 0
    free = (name for name in map(str, itertools.count(1)) if not (folder / name).exists())
    places = [str(folder / name) for name in itertools.islice(free, FEWEST_RUNS - there)]
    environment = example.environment
    plugins = [str(spec) for spec in _listed(environment.get("plugins"))]
    device = environment.get("device")
    words = ["attnbench", "run", str(example.path / SUITE)]
    words += [word for spec in plugins for word in ("--plugin", spec)]
    words += ["--device", device] if isinstance(device, str) else []
    command = f"`{shlex.join([*words, '--out', places[0]])}`"
    more = ", ".join(shlex.quote(place) for place in places[1:])
    return f"{command}, and again with --out {more}" if more else command


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


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
