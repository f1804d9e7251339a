"""Memory that two processes see: where tensors lie, how long it lives, what it looks like from the other side."""

import gc
import mmap
import os
import resource

import pytest
import torch

from attnbench.untrusted.memory import SEGMENT_BYTES, Arena, Mirror, Place, Segment


@pytest.fixture
def arena():
    return Arena("attnbench-test")


def mapped(arena, place):
    """The tensor as another mapping has it."""
    return place.tensor(Segment.mapped(place.segment, os.dup(arena.descriptor(place.segment))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int32])
def test_a_tensor_is_the_same_on_the_other_side(arena, dtype):
    given = torch.arange(24).reshape(2, 3, 4).to(dtype)
    copied = arena.copy(given)
    place = arena.place(copied)
    other = mapped(arena, Place.of(place.words()))
    assert other.dtype == dtype
    assert other.view(torch.uint8).equal(given.view(torch.uint8))
    copied.view(torch.uint8).zero_()
    assert not other.view(torch.uint8).any()
    assert arena.place(given) is None


def test_a_segment_ends_with_its_last_tensor(arena):
    kept, passing = arena.empty((8,), torch.float32), arena.empty((SEGMENT_BYTES,), torch.uint8)
    numbers = [arena.place(tensor).segment for tensor in (kept, passing)]
    assert numbers[0] != numbers[1]
    view = passing[:3]
    del passing
    gc.collect()
    assert arena.ended == []
    del view
    gc.collect()
    assert arena.ended == [numbers[1]]
    assert arena.place(kept).segment == numbers[0]


def test_nobody_can_shrink_a_segment(arena):
    tensor = arena.empty((8,), torch.float32)
    descriptor = arena.descriptor(arena.place(tensor).segment)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)


def test_a_mirror_has_strides_alignment_and_neighbours(arena):
    memory = torch.full((5, 6), float("nan"))
    view = memory.t()[1:4, 1:3]
    view.copy_(torch.arange(6.0).reshape(3, 2))
    mirror = Mirror(arena)
    mirrored = mirror.add(view)
    mirror.copy()
    other = mapped(arena, arena.place(mirrored))
    assert other.equal(view)
    assert other.stride() == view.stride()
    assert other.data_ptr() % 64 == view.data_ptr() % 64
    assert mirrored.as_strided((6,), (1,), 0).isnan().all()  # the first row of the memory, beside the view


def test_rows_that_are_far_apart_take_no_memory_between_them(arena):
    memory = torch.frombuffer(mmap.mmap(-1, 1 << 32), dtype=torch.float32)
    view = memory.as_strided((2, 4), (1 << 29, 1))
    view.copy_(torch.arange(8.0).reshape(2, 4))
    mirror = Mirror(arena)
    mirrored = mirror.add(view)
    mirror.copy()
    assert mirrored.equal(view)
    assert os.fstat(arena.descriptor(arena.place(mirrored).segment)).st_blocks * 512 < 1 << 20


def test_populated_pages_are_there_before_they_are_touched(arena):
    """The first access to each page of a mapping is a fault, which would lie in a timed call."""
    tensor = arena.empty((SEGMENT_BYTES,), torch.uint8).fill_(1)
    place = arena.place(tensor)
    segment = Segment.mapped(place.segment, os.dup(arena.descriptor(place.segment)))
    other = place.tensor(segment)
    segment.populate(place.offset, SEGMENT_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    other.fill_(2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < SEGMENT_BYTES // mmap.PAGESIZE // 10
