"""Shell completion of suites, backends, and run directories with the folders that lead to them, one level at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def suite_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Files, and the suites that ship."""
    from click.shell_completion import CompletionItem

    from attnbench.suite.load import shipped_suites

    names = [(name, about) for name, about, _ in shipped_suites() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *(CompletionItem(name, help=about) for name, about in names)]


def backend_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from attnbench.backends import builtin

    return [name for name in builtin() if name.startswith(incomplete)]


def run_directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """What `incomplete` may become; a folder that is no run ends in a slash, so that one can go on."""
    from click.shell_completion import CompletionItem

    from attnbench.records.store import is_run

    head, _, start = incomplete.rpartition("/")
    folder = Path(f"{head}/") if "/" in incomplete else Path()
    try:
        found = sorted(path for path in folder.iterdir() if path.name.startswith(start) and path.is_dir())
    except OSError:
        return []
    names = [(path, f"{head}/{path.name}" if "/" in incomplete else path.name) for path in found]
    shown = [(path, name) for path, name in names if start.startswith(".") or not path.name.startswith(".")]
    return [CompletionItem(name if is_run(path) else f"{name}/") for path, name in shown]
