"""Where the files are that come with the code: `suites/` and `kernels/`, and where compiled kernels go.

In a checkout they stand beside the package; an installation holds them inside it (pyproject.toml, `package-dir`).
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def import_folder() -> str:
    """What a process of ours needs on its path to import this very attnbench, whatever its working directory."""
    return str(PACKAGE.parent)


def shipped_folder(name: str) -> Path:
    """NOTE: inside first: beside an installed package there may be somebody else's `kernels`."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def build_folder(name: str) -> Path:
    """`build/` of the checkout; of an installation, which may not be written to, the user's cache."""
    if not (PACKAGE / name).is_dir():
        return PACKAGE.parent / "build" / name
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "attnbench" / name
