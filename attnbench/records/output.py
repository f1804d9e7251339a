"""Files that attnbench writes beside run directories: reports, JUnit files, plots. What is in their way stays whole.

A file that attnbench wrote says so at its beginning; another one is replaced only where that was asked for. A run's own
files never are, and no link inside a run directory is followed: run directories may come from strangers.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attnbench.records.store import ENVIRONMENT, RECORDS, SENTINELS, SUITE, StoreError, is_run, write_file

# How every mark begins: an HTML or XML comment at the beginning of a file, in its first line or the one after that.
WRITTEN_BY = "<!-- Written by attnbench"
# matplotlib's SVG files say who made them in their metadata.
PLOT_MARK = "<dc:title>attnbench</dc:title>"
# What an `ab` writes into its folder beside base/ and head/.
OF_AB = ("comparison.json", "processes.jsonl")
_HEAD_BYTES = 4096


def mark(verb: str) -> str:
    """The line that tells a file as one of ours."""
    return f"{WRITTEN_BY} {verb} from run directories. -->"


def refuse_output(path: Path, overwrite: bool, option: str, begins: str = WRITTEN_BY) -> None:
    """Raises StoreError where `path` must not be written: it is a run's own file, lies behind a link inside a run
    directory, or is there and does not begin with the mark `begins`, unless it may be overwritten."""
    if not path.name:
        raise StoreError(f'{option} "{path}": name a file')
    if path.name in (RECORDS, ENVIRONMENT, SUITE, SENTINELS) and is_run(path.parent):
        raise StoreError(f"{path} is the run's own record of what happened; choose another {option}")
    if path.name in OF_AB and any((path.parent / name).exists() for name in OF_AB):
        raise StoreError(f"{path} is the comparison's own record of what happened; choose another {option}")
    _refuse_links(path, option)
    found = _lstat(path)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is a folder; choose another {option}")
    if not overwrite and not (stat.S_ISREG(found.st_mode) and begins in "".join(_first_lines(path))):
        verb = begins.removeprefix("<!-- Written by ").partition(" from")[0]
        raise StoreError(f"{path} was not written by {verb}; choose another {option}, or use --overwrite")


def write_output(path: Path, text: str, overwrite: bool, option: str, begins: str = WRITTEN_BY) -> None:
    """Writes a whole file or nothing. Raises StoreError as `refuse_output`, OSError where it cannot be written."""
    refuse_output(path, overwrite, option, begins)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def empty_plots(folder: Path, overwrite: bool, option: str) -> None:
    """Makes room for plots: takes away those of an earlier report, and with `overwrite` any other file.

    Raises StoreError, before anything is taken away, where something else is in the folder or in its place.
    """
    _refuse_links(folder / "plot.svg", option)
    found = _lstat(folder)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} is no folder, and plots would go there; choose another {option}")
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            raise StoreError(f"{folder} holds a folder, {entry.name}, and plots go there; choose another {option}")
        if not overwrite and not _is_plot(entry):
            raise StoreError(
                f"{folder} holds {entry.name}, which is no plot of attnbench's; choose another {option}, or use "
                "--overwrite, which takes it away"
            )
    for entry in entries:
        entry.unlink()


def _refuse_links(path: Path, option: str) -> None:
    """Folders on the way to `path` that are links, as far as they lie inside a run directory."""
    absolute = Path(os.path.abspath(path))
    parents = list(absolute.parents)
    for place, outer in enumerate(parents):
        if is_run(outer):
            for inner in parents[:place]:
                if inner.is_symlink():
                    raise StoreError(f"{inner} is a link inside the run directory {outer}; choose another {option}")


def _is_plot(path: Path) -> bool:
    found = _lstat(path)
    ours = found is not None and stat.S_ISREG(found.st_mode) and path.suffix == ".svg"
    return ours and PLOT_MARK in _head(path)


def _first_lines(path: Path) -> list[str]:
    return _head(path).splitlines()[:2]


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
