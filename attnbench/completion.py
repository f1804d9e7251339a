"""Shell completion of run directories: runs and the folders that lead to them, one level at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.store import is_run

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def run_directories(incomplete: str) -> list[CompletionItem]:
    """What `incomplete` may become; a folder that is no run ends in a slash, so that one can go on."""
    from click.shell_completion import CompletionItem

    head, _, start = incomplete.rpartition("/")
    folder = Path(f"{head}/") if "/" in incomplete else Path()
    try:
        found = sorted(path for path in folder.iterdir() if path.name.startswith(start) and path.is_dir())
    except OSError:
        return []
    names = [(path, f"{head}/{path.name}" if "/" in incomplete else path.name) for path in found]
    shown = [(path, name) for path, name in names if start.startswith(".") or not path.name.startswith(".")]
    return [CompletionItem(name if is_run(path) else f"{name}/") for path, name in shown]
