"""The memory of one launch: the tensors handed to it, by address; what lies outside of them is nobody's.

Every access is held against the tensors' storages. Where a program stores what another one stores or loads in the same
launch, the result depends on their order: a race (atomics excepted). Both are a `HazardError` with the source line.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnbench.backend import HazardError
from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.numbers import BITS, NotInterpreted, common_shape, dtype_of, poison

# A reader's mark of an address that several programs loaded.
SEVERAL = -1


@dataclass(slots=True)
class Counts:
    """Of one launch: bytes loaded and stored by unmasked lanes, FLOPs of `tl.dot`, exponentials."""

    read_bytes: int = 0
    written_bytes: int = 0
    dot_flops: int = 0
    exponentials: int = 0
    read_of: dict[int, int] = field(default_factory=dict)  # address of a storage -> bytes loaded from it

    def add(self, other: Counts) -> None:
        self.read_bytes += other.read_bytes
        self.written_bytes += other.written_bytes
        self.dot_flops += other.dot_flops
        self.exponentials += other.exponentials
        for start, count in other.read_of.items():
            self.read_of[start] = self.read_of.get(start, 0) + count


@dataclass(slots=True)
class Storage:
    """One tensor's storage. shared: some program may store into it, so that who touches what is noted."""

    start: int
    end: int
    unit: int
    untyped: torch.UntypedStorage
    shared: bool = False
    views: dict[torch.dtype, Tensor] = field(default_factory=dict)
    writers: Tensor | None = None
    readers: Tensor | None = None

    def view(self, dtype: torch.dtype) -> Tensor:
        """All of it, flat."""
        if dtype not in self.views:
            if (self.end - self.start) % dtype.itemsize:
                raise NotInterpreted(f"an access of {dtype.itemsize} bytes to a storage of {self.end - self.start}")
            self.views[dtype] = torch.empty(0, dtype=dtype).set_(self.untyped)
        return self.views[dtype]

    def marks(self) -> tuple[Tensor, Tensor]:
        """Per unit of this storage: the program that stored it and the one that loaded it, numbered from 1."""
        if self.writers is None or self.readers is None:
            units = -(-(self.end - self.start) // self.unit)
            self.writers = torch.zeros(units, dtype=torch.int32)
            self.readers = torch.zeros(units, dtype=torch.int32)
        return self.writers, self.readers


@dataclass(frozen=True, slots=True)
class Lanes:
    """Which elements of one storage an access touches. where: of the access's lanes, None for all of them."""

    storage: Storage
    index: Tensor
    where: Tensor | None


class Memory:
    """poisoned: masked lanes of a load without `other` hold `numbers.poison`, not 0, or do so at these source lines.
    races: note who touches what."""

    def __init__(
        self, tensors: Iterable[Tensor], stored: Iterable[Tensor], poisoned: frozenset[str] | bool, races: bool
    ):
        written = {tensor.untyped_storage().data_ptr() for tensor in stored}
        found: dict[int, Storage] = {}
        for tensor in tensors:
            untyped = tensor.untyped_storage()
            start = untyped.data_ptr()
            if untyped.nbytes():
                shared = races and start in written
                found[start] = Storage(start, start + untyped.nbytes(), tensor.element_size(), untyped, shared)
        self.storages = [found[start] for start in sorted(found)]
        self.starts = [storage.start for storage in self.storages]
        self.poisoned = poisoned
        self.counts = Counts()
        # Source lines of loads whose masked lanes held what nobody gave them.
        self.undefined: set[str] = set()
        # Something was touched of which no mark tells: a store where the kernel's text has none, an access of another
        # size than a tensor's elements.
        self.untold = False

    def load(
        self, op: Operation, address: Tensor, mask: Tensor | None, other: Tensor | None, element: str, programs: Tensor
    ) -> Tensor:
        """address (programs, ...) in bytes; mask, other: broadcast to it."""
        dtype = dtype_of(element)
        shape = address.shape if mask is None else common_shape(address.shape, mask.shape)
        if shape[0] != len(programs) and any(storage.shared for storage in self.storages):
            shape = torch.Size((len(programs), *shape[1:]))
        address, mask = address.expand(shape), None if mask is None else mask.expand(shape)
        rest = self.rest(op, mask, other, element)
        result: Tensor | None = None
        for lanes in self.lanes(op, address, mask, dtype.itemsize, programs):
            self.count(lanes, mask, dtype.itemsize * (len(programs) // shape[0]))
            if lanes.storage.shared:
                self.note_load(op, lanes, mask, programs)
            found = _taken(lanes.storage.view(dtype), lanes.index)
            if lanes.where is None:
                result = found
            else:
                result = rest.expand(shape).clone() if result is None else result
                result[lanes.where] = found
        if result is None:
            return rest.expand(shape)
        return result if mask is None or lanes.where is not None else _chosen(mask, result, rest)

    def rest(self, op: Operation, mask: Tensor | None, other: Tensor | None, element: str) -> Tensor:
        """What masked lanes hold."""
        if other is not None:
            return other
        if mask is not None and not bool(mask.all()):
            self.undefined.add(op.place)
            if self.poisoned is True or (self.poisoned and op.place in self.poisoned):
                return poison(element)
        return torch.zeros(1, dtype=dtype_of(element))

    def store(self, op: Operation, address: Tensor, value: Tensor, mask: Tensor | None, programs: Tensor) -> None:
        shape = common_shape(address.shape, value.shape, *(() if mask is None else (mask.shape,)))
        shape = common_shape(shape, (len(programs), *(1 for _ in shape[1:])))
        address, value = address.expand(shape), value.expand(shape)
        mask = None if mask is None else mask.expand(shape)
        for lanes in self.lanes(op, address, mask, value.dtype.itemsize, programs):
            where = lanes.where if lanes.where is not None else mask
            index = lanes.index if lanes.where is not None or mask is None else lanes.index[mask]
            index, given = index.flatten(), (value if where is None else value[where]).flatten()
            self.counts.written_bytes += index.numel() * value.dtype.itemsize
            view = lanes.storage.view(value.dtype)
            if not lanes.storage.shared:
                self.untold = True
                _put(view, index, given)
                continue
            unit, who = self.touched(lanes.storage, index, value.dtype.itemsize, where, shape, programs)
            self.note_store(op, lanes.storage, unit, who, differ(view, index, given))
            _put(view, index, given)
            last = lanes.storage.marks()[0][unit]
            self.told_race(op, (last != who) & differ(view, index, given), last, who, "stores what", "stores")

    def lanes(
        self, op: Operation, address: Tensor, mask: Tensor | None, size: int, programs: Tensor
    ) -> Iterable[Lanes]:
        """The access by storages: usually one, with an index for every lane (a masked one's is that of another lane).

        Raises HazardError for an access outside of every tensor.
        """
        if mask is None:
            low, high = (int(x) for x in address.aminmax()) if address.numel() else (0, 0)
        else:
            low = int(torch.where(mask, address, torch.iinfo(torch.int64).max).amin()) if mask.numel() else 0
            if low == torch.iinfo(torch.int64).max:
                return ()
            address = torch.where(mask, address, low)
            high = int(address.amax())
        storage = self.storage_at(low)
        if storage is None or high + size > storage.end:
            return self.several(op, address, mask, size, programs)
        if (low - storage.start) % size:
            raise HazardError(f"{_what(op)} at an address that is no multiple of {size} bytes ({op.place})")
        offset = address - storage.start
        return (Lanes(storage, offset if size == 1 else offset >> (size.bit_length() - 1), None),)

    def several(self, op: Operation, address: Tensor, mask: Tensor | None, size: int, programs: Tensor) -> list[Lanes]:
        """Lanes that touch more than one storage, or none."""
        starts, ends = (torch.tensor([*bounds, 0]) for bounds in (self.starts, [item.end for item in self.storages]))
        place = torch.searchsorted(starts[:-1], address.contiguous(), right=True) - 1
        inside = (place >= 0) & (address + size <= ends[place])
        outside = ~inside if mask is None else ~inside & mask
        if bool(outside.any()):
            raise HazardError(self.told_outside(op, outside, programs))
        found = []
        for number in sorted(set(place.flatten().tolist())):
            where = place == number if mask is None else (place == number) & mask
            storage = self.storages[number]
            found.append(Lanes(storage, (address[where] - storage.start) // size, where))
        return [lanes for lanes in found if lanes.index.numel()]

    def told_outside(self, op: Operation, outside: Tensor, programs: Tensor) -> str:
        outside = outside.reshape(outside.shape[0], -1)  # a scalar's access has no lanes of its own
        lanes = outside.shape[1]
        first = int(outside.any(1).nonzero()[0])
        program = int(programs[first]) if len(programs) > first else int(programs[0])
        count = int(outside[first].sum())
        return f"{_what(op)} of {count} of {lanes} elements lies outside every tensor ({op.place}, program {program})"

    def storage_at(self, address: int) -> Storage | None:
        place = bisect.bisect_right(self.starts, address) - 1
        return self.storages[place] if place >= 0 and address < self.storages[place].end else None

    def count(self, lanes: Lanes, mask: Tensor | None, size: int) -> None:
        valid = lanes.index.numel() if mask is None or lanes.where is not None else int(mask.sum())
        self.counts.read_bytes += valid * size
        of = self.counts.read_of
        of[lanes.storage.start] = of.get(lanes.storage.start, 0) + valid * size

    # Who touches what.

    def note_load(self, op: Operation, lanes: Lanes, mask: Tensor | None, programs: Tensor) -> None:
        storage, size = lanes.storage, dtype_of(op.types[0].pointee).itemsize
        where = lanes.where if lanes.where is not None else mask
        index = lanes.index if lanes.where is not None or mask is None else lanes.index[mask]
        unit, who = self.touched(storage, index, size, where, lanes.index.shape, programs)
        writers, readers = storage.marks()
        stored = writers[unit]
        self.told_race(op, (stored != 0) & (stored != who), stored, who, "loads what", "stores")
        before = readers[unit]
        readers[unit] = torch.where((before == 0) | (before == who), who, SEVERAL)
        again = readers[unit]
        readers[unit[(again != who)]] = SEVERAL

    def note_store(self, op: Operation, storage: Storage, unit: Tensor, who: Tensor, differs: Tensor) -> None:
        """differs: whether a lane stores other bits than are there. NOTE: programs that all store the same (a figure
        that each of them computed) do not race for it."""
        writers, readers = storage.marks()
        stored, loaded = writers[unit], readers[unit]
        self.told_race(op, (loaded != 0) & (loaded != who), loaded, who, "stores what", "loads")
        self.told_race(op, (stored != 0) & (stored != who) & differs, stored, who, "stores what", "stores")
        writers[unit] = who

    def touched(
        self, storage: Storage, index: Tensor, size: int, where: Tensor | None, shape: torch.Size, programs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Units of the storage, and by whom, a lane each. index: in elements of `size` bytes."""
        self.untold |= size != storage.unit
        who = (programs + 1).to(torch.int32).view(-1, *(1 for _ in shape[1:])).expand(shape)
        return (index * size // storage.unit).flatten(), (who.flatten() if where is None else who[where])

    def told_race(self, op: Operation, raced: Tensor, other: Tensor, who: Tensor, does: str, did: str) -> None:
        if not bool(raced.any()):
            return
        first = int(raced.nonzero()[0])
        another = int(other[first])
        of = "another program" if another == SEVERAL else f"program {another - 1}"
        raise HazardError(f"a race: program {int(who[first]) - 1} {does} {of} {did} in the same launch ({op.place})")


def _what(op: Operation) -> str:
    return {"tt.load": "a load", "tt.store": "a store"}.get(op.name, "an atomic operation")


def _chosen(mask: Tensor, value: Tensor, rest: Tensor) -> Tensor:
    if value.dtype.itemsize == 1 and value.dtype.is_floating_point:
        return torch.where(mask, value.view(torch.uint8), rest.view(torch.uint8)).view(value.dtype)
    return torch.where(mask, value, rest)


def differ(view: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """Whether what is there has other bits than the value."""
    kind = BITS[value.dtype.itemsize]
    if value.dtype == torch.bool:
        return view[index] != value
    return view.view(kind)[index] != value.contiguous().view(kind)


def _taken(view: Tensor, index: Tensor) -> Tensor:
    if view.dtype.itemsize == 1 and view.dtype.is_floating_point:
        return view.view(torch.uint8)[index].view(view.dtype)
    return view[index]


def _put(view: Tensor, index: Tensor, value: Tensor) -> None:
    """NOTE: by bits, since torch has no scatter of 8-bit floats."""
    if value.dtype.itemsize == 1 and value.dtype != torch.bool:
        view, value = view.view(torch.uint8), value.contiguous().view(torch.uint8)
    view[index.flatten()] = value.flatten()
