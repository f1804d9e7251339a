"""Mends of jax's TPU interpreter: reads and stores through a part, a reshape or a bitcast of a buffer, with masks.

jax follows indices only, and takes a masked store into a part of a buffer for one outside of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax._src.pallas.mosaic.interpret import shared_memory
from jax._src.pallas.mosaic.interpret.utils import to_range
from jax._src.state.indexing import NDIndexer

# Of `get` and `swap`: the place of the transforms among the arguments, after the token, the core and the buffer.
TRANSFORMS = 5


def install() -> None:
    memory: Any = shared_memory.SharedMemory
    memory.swap_buffer_content = masked_swap(memory.swap_buffer_content)
    get, swap = interpreter.get.__wrapped__, interpreter.swap.__wrapped__
    interpreter.get = interpreter.fail_on_exception(read_through(get))
    interpreter.swap = interpreter.fail_on_exception(swap_through(get, swap))


def masked_swap(swap: Callable[..., Any]) -> Callable[..., Any]:
    """NOTE: jax compares every dimension's bound with the first dimension of the mask."""

    @functools.wraps(swap)
    def swapped(self: Any, key: Any, place: Any, value: Any, mask: Any, core: Any, *args: Any, **kwargs: Any) -> Any:
        if mask is not None:
            held, *_ = self.get_buffer_content(key, place, core, increment_clock=False)
            if held is not None and held.shape == value.shape:
                merged = np.where(mask, value, held)
                before, *rest = swap(self, key, place, merged, None, core, *args, **kwargs)
                return (np.where(mask, before, value), *rest)
        return swap(self, key, place, value, mask, core, *args, **kwargs)

    return swapped


def read_through(get: Callable[..., Any]) -> Callable[..., Any]:
    """What is read of a reshaped or bitcast buffer: what indices come first is read, the rest is done to that."""

    @functools.wraps(get)
    def read(*arguments: Any, **kwargs: Any) -> Any:
        before, transforms, after = parts(arguments)
        first, further = split(transforms)
        if not further:
            return get(*arguments, **kwargs)
        token, held = get(*before, first, *after, **kwargs)
        return token, np.ascontiguousarray(seen_through(held, further))

    return read


def swap_through(get: Callable[..., Any], swap: Callable[..., Any]) -> Callable[..., Any]:
    """Likewise of a store: the part that indices name first is stored whole, changed where the rest names it."""

    @functools.wraps(swap)
    def stored(*arguments: Any, **kwargs: Any) -> Any:
        before, transforms, (value, mask) = parts(arguments)
        first, further = split(transforms)
        if not further:
            return swap(*arguments, **kwargs)
        _, held = get(*before, first)
        changed = np.array(held)
        part = seen_through(changed, further)
        if not np.shares_memory(part, changed):
            raise NotImplementedError("a store through a bitcast")
        old = part.copy()
        part[...] = np.array(value) if mask is None else np.where(np.array(mask), np.array(value), old)
        token, _ = swap(*before, first, changed, None, **kwargs)
        return token, old if mask is None else np.where(np.array(mask), old, np.array(value))

    return stored


def parts(arguments: Sequence[Any]) -> tuple[Sequence[Any], Any, Sequence[Any]]:
    return arguments[:TRANSFORMS], arguments[TRANSFORMS], arguments[TRANSFORMS + 1 :]


def split(transforms: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(the indices that come first, everything from the first other transform on)."""
    first = tuple(itertools.takewhile(lambda each: isinstance(each, NDIndexer), transforms))
    return first, tuple(transforms[len(first) :])


def seen_through(array: np.ndarray[Any, Any], transforms: Sequence[Any]) -> np.ndarray[Any, Any]:
    """A buffer's values through reshapes, bitcasts and indices; a view of it where numpy has one."""
    for transform in transforms:
        if isinstance(transform, NDIndexer):
            array = array[to_range((jax.tree.map(int, transform),))]
        elif hasattr(transform, "shape"):
            array = array.reshape(transform.shape)
        elif hasattr(transform, "dtype"):
            array = bitcast(array, np.dtype(transform.dtype))
        else:
            raise NotImplementedError(f"a ref through {type(transform).__name__}")
    return array


def bitcast(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """(..., rows, columns) as a TPU packs it: rows that follow each other share a word, the first in its low bits."""
    size, wanted = array.dtype.itemsize, dtype.itemsize
    if size == wanted:
        return array.view(dtype)
    *outer, rows, columns = array.shape
    if wanted > size:
        packed = array.reshape(*outer, rows * size // wanted, wanted // size, columns)
        return np.ascontiguousarray(np.swapaxes(packed, -1, -2)).view(dtype)[..., 0]
    parts = np.ascontiguousarray(array)[..., None].view(dtype)
    return np.swapaxes(parts, -1, -2).reshape(*outer, rows * size // wanted, columns)
