"""Standard streams that are there and that a command outlives: closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def open_missing() -> None:
    """Puts /dev/null where descriptor 0, 1 or 2 is closed.

    NOTE: ahead of everything that opens a file or a pipe, which would get that number and be taken for the stream.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  # as long as the process


class _Lossy(io.RawIOBase):
    """Writes to a raw file; what it does not take is dropped, and the first reason kept. One that nobody reads raises
    BrokenPipeError all the same, where that is to be noticed."""

    def __init__(self, raw: io.FileIO, notices_readers: bool):
        self._raw, self._notices_readers = raw, notices_readers
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        try:
            while (written := self._raw.write(data)) is None:  # a pipe that does not block, and is full
                select.select([], [self._raw], [])
            return written
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._notices_readers:
                raise
            self.failure = self.failure or error
            return len(data)


@contextlib.contextmanager
def outlived() -> Iterator[list[_Lossy]]:
    """stdout and stderr of this process as streams whose errors of writing end nothing; told in what it gives.

    What no encoding of a terminal holds (half a surrogate pair of a broken file name) is written as its escape.
    """
    open_missing()
    before = sys.stdout, sys.stderr
    lossy = []
    for name, stream in zip(("stdout", "stderr"), before):
        raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
        if isinstance(stream, io.TextIOWrapper) and isinstance(raw, io.FileIO):
            lossy.append(_Lossy(raw, notices_readers=name == "stdout"))
            setattr(sys, name, _text(stream, lossy[-1]))
    try:
        yield lossy
    finally:
        for wrapped, stream in ((sys.stdout, before[0]), (sys.stderr, before[1])):
            if wrapped is not stream:
                with contextlib.suppress(BrokenPipeError):
                    wrapped.flush()
        sys.stdout, sys.stderr = before


def _text(stream: io.TextIOWrapper, raw: _Lossy) -> TextIO:
    stream.flush()
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffered, encoding=stream.encoding, errors="backslashreplace", newline="\n",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip
