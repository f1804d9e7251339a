"""The worker's standard streams: put back after a backend that closed or replaced them, and what was printed there.

NOTE: where descriptor 1 is free, the next file that anybody opens gets it, and what the next kernel prints goes there.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

from attnbench.paths import import_folder

# Of a first line, as much as is told.
LINE_CHARACTERS = 200
DESCRIPTORS = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


class Streams:
    """Copies of descriptors 0, 1 and 2 as they are now."""

    def __init__(self) -> None:
        self._copies = {descriptor: os.dup(descriptor) for descriptor in DESCRIPTORS}
        self._folders = (sys.prefix, import_folder(), os.getcwd(), str(Path.home()))
        self._objects = {name: getattr(sys, name) for name, _ in DESCRIPTORS.values()}

    def printed_bytes(self) -> int:
        """What went to standard output and standard error so far, which are one file in a worker; 0 elsewhere."""
        ctypes.CDLL(None).fflush(None)  # libc keeps what is printed to a file until there is a block of it
        found = os.fstat(self._copies[1])
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def first_line(self, since: int) -> str:
        """The first line that was printed after so many bytes, without paths of this machine; "" for none."""
        if self.printed_bytes() <= since:
            return ""
        try:
            text = os.pread(self._copies[1], LINE_CHARACTERS, since).decode(errors="replace")
        except OSError:  # a file that may be written only
            return ""
        line = next((line.strip() for line in text.splitlines() if line.strip()), "")
        for folder in self._folders:
            line = line.replace(f"{folder}/", "")
        return line

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
