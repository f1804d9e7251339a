"""The worker's standard streams, put back after a backend that closed or replaced them.

NOTE: where descriptor 1 is free, the next file that anybody opens gets it, and what the next kernel prints goes there.
"""

from __future__ import annotations

import os
import sys

DESCRIPTORS = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


class Streams:
    """Copies of descriptors 0, 1 and 2 as they are now."""

    def __init__(self) -> None:
        self._copies = {descriptor: os.dup(descriptor) for descriptor in DESCRIPTORS}
        self._objects = {name: getattr(sys, name) for name, _ in DESCRIPTORS.values()}

    def restore(self) -> None:
        for descriptor, (name, mode) in DESCRIPTORS.items():
            if not _same(descriptor, self._copies[descriptor]):
                os.dup2(self._copies[descriptor], descriptor)
            if self._objects[name].closed:
                self._objects[name] = open(descriptor, mode, buffering=1, closefd=False)  # noqa: SIM115
            setattr(sys, name, self._objects[name])


def _same(descriptor: int, copy: int) -> bool:
    try:
        return os.path.sameopenfile(descriptor, copy)
    except OSError:  # one is closed
        return False
