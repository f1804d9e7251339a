"""Every stock backend once more under another name: a plugin, so that it runs where the candidate does."""

from __future__ import annotations

import copy

from attnbench.backend import Base, never_timed
from attnbench.backends import builtin
from attnbench.judge.twins import twin_name


def _twin(backend: Base) -> Base:
    """NOTE: a property goes before an attribute of the instance, and some have a property there already."""
    kind, name = type(backend), twin_name(backend.name)
    twin = copy.copy(backend)
    named = type(kind.__name__, (kind,), {"__slots__": (), "name": property(lambda self: name)})
    object.__setattr__(twin, "__class__", named)  # some are frozen dataclasses
    return twin


BACKENDS = tuple(_twin(backend) for backend in builtin().values() if not never_timed(backend))
