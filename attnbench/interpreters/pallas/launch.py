"""Launches of Pallas kernels as jax's interpreters run them: counted, and mended where an interpreter stops.

Everything here changes attributes of private modules of jax, which `language.TRIED` versions have.
"""

from __future__ import annotations

import builtins
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util
from jax._src.pallas import hlo_interpreter, primitives
from jax._src.pallas.mosaic import core as mosaic_core
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as tpu_interpreter
from jax._src.pallas.mosaic.interpret import race_detection_state
from jax._src.pallas.triton import core as triton_core
from jax._src.state import discharge
from jax._src.state.indexing import NDIndexer
from jax.experimental.pallas import tpu

from attnbench.backend import UnsupportedError
from attnbench.interpreters.pallas import dots, tpu_memory
from attnbench.interpreters.pallas.counting import Rewriter, Tally, count_blocks
from attnbench.interpreters.pallas.failures import RACE

Params = dict[str, Any]


@dataclass
class Launches:
    """What happens in a process. Until `forget`, of one call: kernels (names, a launch each), told (races and
    semaphores as the TPU's interpreter prints them, blocks outside of an array), raised (by its callbacks; jax logs
    it), tally (what the kernels moved and computed).

    Kept: asked, what stood in for a TPU that is not there; undefined, by kernel the source lines of masked loads
    without `other`; ordered, the kernels whose programs may run in another order. Under which conditions the next
    kernels are traced: poisoned (masked lanes of such loads hold NaN; or do so at these lines), reordered. last: the
    kernels of the call before, of which a second pass of the same call is traced again only where something of them
    depends on the conditions.
    """

    kernels: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    told: list[str] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    undefined: dict[str, set[str]] = field(default_factory=dict)
    ordered: set[str] = field(default_factory=set)
    last: tuple[str, ...] = ()
    poisoned: frozenset[str] | bool = False
    reordered: bool = False
    # Of the kernel that is being traced: its name, and which dimensions of the grid may run in any order.
    tracing: str = ""
    parallel: tuple[bool, ...] = ()

    def forget(self) -> None:
        self.last = tuple(self.kernels) or self.last
        self.kernels.clear()
        self.tally.forget()
        self.told.clear()
        self.raised.clear()

    def launched(self, name: str) -> None:
        self.kernels.append(name)

    @contextmanager
    def kernel(self, name: str, parallel: tuple[bool, ...]) -> Iterator[None]:
        before = self.tracing, self.parallel
        self.tracing, self.parallel = name, parallel
        try:
            yield
        finally:
            self.tracing, self.parallel = before


@functools.cache
def install() -> Launches:
    """Once in a process, for all of it: every kernel that an interpreter runs from now on is counted."""
    launches = Launches()
    hlo_interpreter.pallas_call_hlo_interpret = counted(launches, hlo_interpreter.pallas_call_hlo_interpret)
    tpu_interpreter.interpret_pallas_call = counted(launches, for_tpus(tpu_interpreter.interpret_pallas_call))
    hlo_interpreter._get_next_indices = next_indices(launches, hlo_interpreter._get_next_indices)
    hlo_interpreter._dynamic_slice = block_inside(launches, hlo_interpreter._dynamic_slice)
    rules = discharge._discharge_rules
    rules[primitives.load_p] = masked_load(launches, whole_indices(rules[primitives.load_p]))
    rules[primitives.swap_p] = stored_through(whole_indices(rules[primitives.swap_p]))
    tpu_information(launches)
    tpu_memory.install()
    dots.install()
    logger = logging.getLogger(jax._src.callback.__name__)
    logger.addHandler(Raised(launches))
    logger.propagate = False
    for module in (race_detection_state, tpu_interpreter):
        module.print = functools.partial(told, launches)  # stands before the builtin
    return launches


def counted(launches: Launches, interpret: Callable[..., Any]) -> Callable[..., Any]:
    """The interpreter's entry, which is traced once; what it makes calls back at each launch."""

    @functools.wraps(interpret)
    def run(*arguments: Any, **params: Any) -> Any:
        name = str(params["name"] or params["jaxpr"].debug_info.func_name)
        jax.debug.callback(functools.partial(launches.launched, name))
        gpu = isinstance(params["compiler_params"], triton_core.CompilerParams)
        if not gpu:
            count_blocks(name, launches.tally, params["grid_mapping"], arguments)
        params["jaxpr"] = Rewriter(name, gpu, launches.tally).rewritten(params["jaxpr"])
        with launches.kernel(name, parallel_dimensions(params)):
            return interpret(*arguments, **params)

    return run


def for_tpus(interpret: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(interpret)
    def run(*arguments: Any, **params: Any) -> Any:
        if isinstance(params["compiler_params"], triton_core.CompilerParams):
            raise UnsupportedError("it is a kernel for a GPU: jax's tpu interpreter runs none; --interpret=hlo does")
        return interpret(*arguments, **params)

    return run


# The TPU that wrappers are told of, and jax's own figures of it.
TPU = "TPU v6e"


def tpu_information(launches: Launches) -> None:
    """`get_tpu_info` answers on a CPU, through the registry that jax has for further devices."""
    module = sys.modules[tpu.get_tpu_info.__wrapped__.__module__]

    def answer() -> Any:
        launches.asked.add(f"get_tpu_info ({TPU})")
        return module.get_tpu_info_for_chip(module.chip_version_from_device_kind(TPU), 1)

    module.registry[jax.local_devices(backend="cpu")[0].device_kind] = answer


def parallel_dimensions(params: Params) -> tuple[bool, ...]:
    """Which dimensions of the grid run in any order on hardware: all of a GPU's; of a TPU's those that say so."""
    count = len(params["grid_mapping"].grid)
    compiled = params["compiler_params"]
    if isinstance(compiled, triton_core.CompilerParams):
        return (True,) * count
    semantics = getattr(compiled, "dimension_semantics", None) or ("arbitrary",) * count
    return tuple(each in ("parallel", mosaic_core.PARALLEL) for each in semantics)


# The interpreter of XLA operations.


def next_indices(launches: Launches, in_order: Callable[..., Any]) -> Callable[..., Any]:
    """Programs from the last to the first along dimensions that may run in any order; the first one stays the first,
    as the interpreter begins with it."""

    def following(grid: Sequence[Any], indices: Sequence[Any]) -> Any:
        if not any(launches.parallel) or len(launches.parallel) != len(grid):
            return in_order(grid, indices)
        launches.ordered.add(launches.tracing)
        if not launches.reordered:
            return in_order(grid, indices)
        nexts, carry = [], jnp.bool_(True)
        for size, index, parallel in reversed(list(zip(grid, indices, launches.parallel))):
            other = (
                jnp.where(index == 0, size - 1, index - 1) if parallel else jnp.where(index == size - 1, 0, index + 1)
            )
            other = jnp.where(carry, other, index)
            carry = jnp.logical_and(carry, other == 0)
            nexts.append(other)
        return tuple(reversed(nexts))

    return following


def block_inside(launches: Launches, block_of: Callable[..., Any]) -> Callable[..., Any]:
    """NOTE: jax moves a block that begins outside of an array back into it, so that a kernel for as many heads of k as
    of q looks right with fewer. Arrays are whole blocks here, so that a tail is inside."""

    def block(start: Sequence[Any], shape: tuple[int, ...], value: Any, squeezed: Any) -> Any:
        kernel = launches.tracing

        def outside(*at: Any) -> None:
            place = ", ".join(str(int(x)) for x in at)
            launches.told.append(
                f"{kernel}: a block of {list(shape)} at ({place}) lies outside of its array of {list(value.shape)}"
            )

        if value.shape:
            at = [jnp.asarray(index, jnp.int32) for index in start]
            room = zip(at, value.shape, shape)
            inside = jnp.stack([(index >= 0) & (index <= size - part) for index, size, part in room]).all()
            jax.lax.cond(inside, lambda *_: None, lambda *at: jax.debug.callback(outside, *at), *at)
        return block_of(start, shape, value, squeezed)

    return block


def masked_load(launches: Launches, rule: Callable[..., Any]) -> Callable[..., Any]:
    """A load's masked lanes hold what nobody gave them, unless it has `other`."""

    def load(*given: Any, args_tree: Any, **params: Any) -> Any:
        changed, loaded = rule(*given, args_tree=args_tree, **params)
        *_, mask, other = args_tree.unflatten(operands(given, args_tree)[1])
        if mask is None or other is not None or not jnp.issubdtype(loaded.dtype, jnp.floating):
            return changed, loaded
        place = place_here()
        launches.undefined.setdefault(launches.tracing, set()).add(place)
        if launches.poisoned is True or (launches.poisoned and place in launches.poisoned):
            loaded = jnp.where(mask, loaded, jnp.nan)
        return changed, loaded

    return load


def operands(given: Sequence[Any], tree: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Of a rule's arguments: what comes first (types, or a context, by the version of jax), then the operands."""
    count = len(given) - tree.num_leaves
    return given[:count], given[count:]


def whole_indices(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Python's integers among the indices of a ref, which the rules take to be arrays."""

    def discharged(*given: Any, args_tree: Any, **params: Any) -> Any:
        first, arguments = operands(given, args_tree)
        arrays = [np.int32(x) if isinstance(x, int) and not isinstance(x, bool) else x for x in arguments]
        return rule(*first, *arrays, args_tree=args_tree, **params)

    return discharged


def stored_through(rule: Callable[..., Any]) -> Callable[..., Any]:
    """NOTE: of a store to a part of a part of a ref (`ref.at[i].at[j]`), jax hands on the part for the whole."""

    def discharged(*given: Any, args_tree: Any, **params: Any) -> Any:
        first, arguments = operands(given, args_tree)
        ref, transforms, value, mask = args_tree.unflatten(arguments)
        *outer, last = transforms or (None,)
        if last is not None and not isinstance(last, NDIndexer):
            outer, last = [*outer, last], None
        if not outer:
            return rule(*given, args_tree=args_tree, **params)
        part = discharge.transform_array(ref, outer)
        last = NDIndexer.make_trivial_indexer(part.shape) if last is None else last
        inner, tree = jax.tree.flatten((part, (last,), value, mask))
        (stored, *_), before = rule(*first, *inner, args_tree=tree, **params)
        _, whole = discharge.transform_swap_array(ref, outer, stored)
        return (whole, *[None] * (len(arguments) - 1)), before

    return discharged


def place_here() -> str:
    """`file.py:line` of the kernel's operation that is being traced."""
    frame = source_info_util.user_frame(source_info_util.current().traceback)
    return "an unknown line" if frame is None else f"{Path(frame.file_name).name}:{frame.start_line}"


# What the TPU's interpreter says.


class Raised(logging.Handler):
    """What a callback raised: jax hands on its text without the kernel's line, and logs it with that."""

    def __init__(self, launches: Launches):
        super().__init__()
        self.launches = launches

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.launches.raised.append(record.exc_info[1])


def told(launches: Launches, *words: Any, **how: Any) -> None:
    """What the TPU's interpreter prints. Races and semaphores that nobody waited for are kept."""
    text = " ".join(str(word) for word in words)
    if text.startswith(RACE) or "non-zero count" in text:
        launches.told.append(text)
    else:
        builtins.print(*words, **how)
