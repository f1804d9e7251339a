"""Memory that the judge and a candidate process both see: where tensors lie in it, in words that go over a socket.

A segment is a memfd of a size that nobody can change. The judge makes it and sends its descriptor along with the first
message that names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Small tensors share a segment of this size; a larger one has its own. Pages that nobody touches take no memory.
SEGMENT_BYTES = 64 * 2**20
# Where a tensor may begin: torch's own allocator aligns to so much, and kernels may count on it.
ALIGNMENT = 64
# madvise(2): maps pages for reading and writing.
POPULATE_WRITE = 23
# <linux/fcntl.h>: a file that shrinks under a mapping ends whoever reads there (SIGBUS).
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Segment(mmap.mmap):
    """A mapping that lives as long as a tensor lies in it. number: its name in messages."""

    number: int
    descriptor: int
    used_bytes: int

    @classmethod
    def mapped(cls, number: int, descriptor: int) -> Segment:
        segment = cls(descriptor, os.fstat(descriptor).st_size)
        segment.number, segment.descriptor, segment.used_bytes = number, descriptor, 0
        weakref.finalize(segment, os.close, descriptor)
        return segment

    def populate(self, offset: int, size: int) -> None:
        """Maps these bytes now, which else the first access to each page does, in the middle of a timed call."""
        start = offset - offset % mmap.PAGESIZE
        with contextlib.suppress(OSError):  # Linux before 5.14
            self.madvise(POPULATE_WRITE, start, offset + size - start)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: bytes from the segment's start, strides in elements, dtype as torch names it."""

    segment: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @classmethod
    def made(cls, segment: int, offset: int, tensor: Tensor) -> Place:
        return cls(segment, offset, tuple(tensor.shape), tensor.stride(), str(tensor.dtype).removeprefix("torch."))

    def words(self) -> list[Any]:
        return [self.segment, self.offset, list(self.shape), list(self.strides), self.dtype]

    @classmethod
    def of(cls, words: Sequence[Any]) -> Place:
        segment, offset, shape, strides, dtype = words
        return cls(segment, offset, tuple(shape), tuple(strides), dtype)

    def tensor(self, segment: Segment) -> Tensor:
        import torch

        dtype = getattr(torch, self.dtype)
        elements = 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides))
        raw = torch.frombuffer(segment, dtype=torch.uint8, count=elements * dtype.itemsize, offset=self.offset)
        return raw.view(dtype).as_strided(self.shape, self.strides)


def bytes_of(shape: Sequence[int], dtype: torch.dtype) -> int:
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size


class Arena:
    """The judge's segments. One ends with the last tensor in it; `ended` lists those whose end nobody was told of."""

    def __init__(self, name: str):
        self._name = name
        self._segments: weakref.WeakValueDictionary[int, Segment] = weakref.WeakValueDictionary()
        self._bases: dict[int, tuple[int, int]] = {}  # segment: its address and size
        self._last: weakref.ref[Segment] | None = None
        self._made = 0
        self.ended: list[int] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Zeros."""
        import torch

        size = bytes_of(shape, dtype)
        segment = self._last() if self._last is not None else None
        if segment is None or segment.used_bytes + size > len(segment):
            segment = self._new(max(size, SEGMENT_BYTES))
        raw = torch.frombuffer(segment, dtype=torch.uint8, count=size, offset=segment.used_bytes)
        segment.used_bytes += -(-size // ALIGNMENT) * ALIGNMENT
        return raw.view(dtype).view(tuple(shape))

    def copy(self, tensor: Tensor) -> Tensor:
        copied = self.empty(tensor.shape, tensor.dtype)
        copied.copy_(tensor)
        return copied

    def place(self, tensor: Tensor) -> Place | None:
        """Where the tensor lies; None where that is in none of these segments."""
        address = tensor.data_ptr()
        for number, (base, size) in self._bases.items():
            if base <= address < base + size and number in self._segments:
                return Place.made(number, address - base, tensor)
        return None

    def descriptor(self, number: int) -> int:
        return self._segments[number].descriptor

    def _new(self, size: int) -> Segment:
        import torch

        descriptor = os.memfd_create(self._name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        self._made += 1
        segment = Segment.mapped(self._made, descriptor)
        number = segment.number
        self._segments[number] = segment
        self._bases[number] = torch.frombuffer(segment, dtype=torch.uint8, count=1).data_ptr(), size
        self._last = weakref.ref(segment)
        weakref.finalize(segment, self._end, number)
        return segment

    def _end(self, number: int) -> None:
        del self._bases[number]
        self.ended.append(number)


# Of a tensor's storage, what lies beside it is copied too, unless that is more than so many times the tensor.
NEIGHBOURS, LEAST_NEIGHBOURS_BYTES = 8, 2**20


class Mirror:
    """Memory of an arena in which tensors lie as given ones do in theirs: same strides, same alignment, the same beside
    them."""

    def __init__(self, arena: Arena):
        self._arena = arena
        self._storages: dict[int, tuple[Tensor, Tensor]] = {}  # by address: the given bytes, and those here
        self._far: list[tuple[Tensor, Tensor]] = []  # tensors whose storage is not copied

    def add(self, tensor: Tensor) -> Tensor:
        """The tensor's place here; it holds nothing before `copy`."""
        import torch

        held = tensor.untyped_storage()
        if held.data_ptr() not in self._storages:
            given = torch.empty(0, dtype=torch.uint8).set_(held)
            self._storages[held.data_ptr()] = given, self._arena.empty((held.nbytes(),), torch.uint8)
        given, raw = self._storages[held.data_ptr()]
        size = tensor.element_size()
        typed = raw[: raw.numel() // size * size].view(tensor.dtype)
        mirrored = typed.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if held.nbytes() > NEIGHBOURS * tensor.numel() * size + LEAST_NEIGHBOURS_BYTES:
            self._far.append((tensor, mirrored))
        return mirrored

    def copy(self) -> None:
        """The numbers that the given tensors, and what lies beside them, have now."""
        far = {tensor.untyped_storage().data_ptr() for tensor, _ in self._far}
        for address, (given, raw) in self._storages.items():
            if address not in far:
                raw.copy_(given)
        for tensor, mirrored in self._far:
            mirrored.copy_(tensor)
