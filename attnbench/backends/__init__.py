"""The directory is the registry: every module beside this one holds `BACKENDS`, a tuple of backends.

To add a backend, add a file. Modules import torch and their library inside functions only, so that `attnbench list`
stays instant and works without torch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from attnbench.backend import Base


@functools.cache
def builtin() -> dict[str, Base]:
    """Every built-in backend by name, modules in alphabetical order."""
    found: dict[str, Base] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for backend in importlib.import_module(f"{__name__}.{module.name}").BACKENDS:
            if backend.name in found:
                raise ValueError(f'two backends are named "{backend.name}"; the second is in {module.name}')
            found[backend.name] = backend
    return found
