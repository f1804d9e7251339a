"""Where the files are that come with the code: `suites/` and `kernels/`, and where compiled kernels go.

In a checkout they stand beside the package; an installation holds them inside it (pyproject.toml, `package-dir`).
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_folder(name: str) -> Path:
    """NOTE: inside first: beside an installed package there may be somebody else's `kernels`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def build_folder(name: str) -> Path:
    """`build/` of the checkout; of an installation, which may not be written to, the user's cache."""
    if not (_PACKAGE / name).is_dir():
        return _PACKAGE.parent / "build" / name
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "attnbench" / name
