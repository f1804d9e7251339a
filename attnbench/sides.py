"""The two sides of a comparison. A path stands for a run, a folder of runs, or a folder of machines' folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnbench.records.store import Run, StoreError, is_run, read
from attnbench.stored_baseline import FEWEST_RUNS
from attnbench.units import count


@dataclass(frozen=True, slots=True)
class Side:
    """The runs of one side, by name. problems: lines that are no records, named by file and number."""

    path: Path
    runs: tuple[Run, ...]

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
    shared = {run.path.resolve() for run in old.runs} & {run.path.resolve() for run in fresh.runs}
    for path in sorted(shared):
        raise StoreError(f"{path.name} is in BASE ({base}) and in NEW ({new}); a run is not compared with itself")
    return old, fresh


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
    return Side(path, tuple(read(run) for run in found))


def _of_machines(base: Path, fresh: Side) -> Side:
    names = {machine_of(run) for run in fresh.runs}
    if len(names) > 1 or None in names:
        listed = ", ".join(sorted(map(str, names)))
        raise StoreError(f"{fresh.path}: its runs name no single machine ({listed}); give BASE as a folder of runs")
    machine = names.pop()
    folders = {path.name: runs_in(path) for path in sorted(base.iterdir()) if runs_in(path)}
    own = folders.get(machine, [])
    if len(own) < FEWEST_RUNS <= len(folders):
        return Side(base, tuple(read(run) for runs in folders.values() for run in runs))
    if not own:
        raise NoBaseline(
            f"{base} has no runs of this machine ({machine}), only of {', '.join(folders)}; "
            f"a baseline is made by `attnbench run SUITE --out {base / machine}/1`, and /2 and /3"
        )
    return _side(base / machine, folder_of_machines=False)
