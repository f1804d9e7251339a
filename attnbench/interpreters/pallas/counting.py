"""What a Pallas kernel moves and computes, counted as it runs; and what a GPU does by default, written out in its text.

The jaxpr of a kernel is rewritten before an interpreter gets it: each block of operations ends with a callback that
adds what the block did. A GPU's refs are global memory: every load and store of one counts, masked lanes do not. A
TPU's blocks are copied between HBM and its own memory where their index changes from one program to the next (jax's
documentation, Pallas, grids and BlockSpecs); copies that a kernel starts count as well, accesses to its own memory do
not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core as jax_core
from jax.extend import core
from jax.lax import DotAlgorithmPreset, Precision

# Precisions of a dot that jax's lowering of Pallas to Triton makes tf32 of fp32 operands (jax 0.10.2,
# jax/_src/pallas/triton/lowering.py, _dot_general_lowering). None: none was named.
TF32 = (None, DotAlgorithmPreset.DEFAULT)
TF32_OF_OPERANDS = frozenset({Precision.DEFAULT, Precision.HIGH})
# Operations whose regions run as they stand, once or in a loop; of others with something to count in them nothing is
# known.
REGIONS = frozenset({"scan", "while", "cond", "pjit", "jit", "closed_call", "core_call", "run_scoped"})
# A while loop's condition is no part of what it does.
CONDITION = "cond_jaxpr"
# Memory that is no TPU core's own.
HBM = frozenset({"any", "hbm"})


@dataclass
class Figures:
    """What is counted."""

    read_bytes: int = 0
    written_bytes: int = 0
    dot_flops: int = 0
    exponentials: int = 0

    def add(self, other: Figures) -> None:
        self.read_bytes += other.read_bytes
        self.written_bytes += other.written_bytes
        self.dot_flops += other.dot_flops
        self.exponentials += other.exponentials


@dataclass
class Tally(Figures):
    """Of the kernels of one call. uncounted: why the figures of one are not known, by kernel."""

    uncounted: dict[str, str] = field(default_factory=dict)

    def forget(self) -> None:
        self.read_bytes = self.written_bytes = self.dot_flops = self.exponentials = 0

    def block(self, did: Did, *masks: Any) -> None:
        """A block of operations ran. masks: of its masked accesses, in order."""
        self.add(did)
        for mask, (loaded, stored) in zip(masks, did.masked, strict=True):
            lanes = int(np.count_nonzero(mask))
            self.read_bytes += loaded * lanes
            self.written_bytes += stored * lanes

    def copied(self, loaded: int, stored: int, times: Any) -> None:
        """Blocks of so many bytes between HBM and a TPU's own memory."""
        self.read_bytes += loaded * int(times)
        self.written_bytes += stored * int(times)


@dataclass
class Did(Figures):
    """One run of a block. masked: bytes loaded and stored by a lane of each masked access."""

    masked: list[tuple[int, int]] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not (self.read_bytes or self.written_bytes or self.dot_flops or self.exponentials or self.masked)


@dataclass(frozen=True)
class Rewriter:
    """Of the text of one kernel. gpu: it is for a GPU, whose refs are global memory."""

    kernel: str
    gpu: bool
    tally: Tally

    def rewritten(self, jaxpr: Any) -> Any:
        did, equations = Did(), []
        for equation in jaxpr.eqns:
            equations.append(self.default_precision(self.with_regions(equation)))
            COUNTED.get(equation.primitive.name, ignored)(equation, did, self.gpu)
        if not did.nothing:
            equations.append(callback(functools.partial(self.tally.block, did), did.masks))
        effects = jax_core.join_effects(*(equation.effects for equation in equations))
        return jaxpr.replace(eqns=equations, effects=jaxpr.effects | of_callbacks(effects))

    def with_regions(self, equation: Any) -> Any:
        params = dict(equation.params)
        for name, value in equation.params.items():
            if name == CONDITION:
                continue
            regions = value if isinstance(value, tuple) else (value,)
            if not any(is_text(region) for region in regions):
                continue
            if equation.primitive.name not in REGIONS:
                if any(is_text(region) and counts(region, self.gpu) for region in regions):
                    self.tally.uncounted[self.kernel] = f"it computes inside of {equation.primitive.name}"
                continue
            changed = tuple(self.region(region) if is_text(region) else region for region in regions)
            params[name] = changed if isinstance(value, tuple) else changed[0]
        inner = [region for value in params.values() for region in (value if isinstance(value, tuple) else (value,))]
        effects = jax_core.join_effects(*(region.effects for region in inner if is_text(region)))
        return equation.replace(params=params, effects=equation.effects | of_callbacks(effects))

    def region(self, text: Any) -> Any:
        if isinstance(text, core.ClosedJaxpr):
            return core.ClosedJaxpr(self.rewritten(text.jaxpr), text.consts)
        return self.rewritten(text)

    def default_precision(self, equation: Any) -> Any:
        """A dot of fp32 whose precision a GPU's compiler takes as tf32, saying so."""
        if not self.gpu or equation.primitive.name != "dot_general":
            return equation
        given = equation.params["precision"]
        default = given in TF32 if not isinstance(given, tuple) else not TF32_OF_OPERANDS.isdisjoint(given)
        if not default or any(operand.aval.dtype != jnp.float32 for operand in equation.invars):
            return equation
        return equation.replace(params={**equation.params, "precision": DotAlgorithmPreset.TF32_TF32_F32})


def is_text(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def of_callbacks(effects: Any) -> set[Any]:
    return {effect for effect in effects if type(effect).__name__ == "DebugEffect"}


def counts(text: Any, gpu: bool) -> bool:
    """Whether something in a region is counted."""
    did = Did()
    jaxpr = text.jaxpr if isinstance(text, core.ClosedJaxpr) else text
    for equation in jaxpr.eqns:
        COUNTED.get(equation.primitive.name, ignored)(equation, did, gpu)
    return not did.nothing


def callback(function: Callable[..., None], variables: Sequence[Any]) -> Any:
    """The operation that calls it with the variables' values."""
    shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in variables]
    made = jax.make_jaxpr(lambda *values: jax.debug.callback(function, *values))(*shapes)
    return made.jaxpr.eqns[-1].replace(invars=list(variables))


# What an operation adds.


def ignored(equation: Any, did: Did, gpu: bool) -> None:
    """Not counted."""


def bytes_of(value: Any) -> int:
    size: int = math.prod(value.shape) * jnp.dtype(value.dtype).itemsize
    return size


def dot(equation: Any, did: Did, gpu: bool) -> None:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    did.dot_flops += 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)


def exponential(equation: Any, did: Did, gpu: bool) -> None:
    did.exponentials += math.prod(equation.outvars[0].aval.shape)


def loaded(equation: Any, did: Did, gpu: bool) -> None:
    if gpu:
        access(equation, did, 1, 0)


def stored(equation: Any, did: Did, gpu: bool) -> None:
    if gpu:
        access(equation, did, 0, 1)


def added(equation: Any, did: Did, gpu: bool) -> None:
    """`ref[...] += x`, which gives nothing back: the second operand is what is added."""
    if gpu:
        size = bytes_of(equation.invars[1].aval)
        did.read_bytes += size
        did.written_bytes += size


def access(equation: Any, did: Did, load: int, store: int) -> None:
    moved = equation.outvars[0].aval
    mask = None
    if "args_tree" in equation.params:
        *_, third, fourth = equation.params["args_tree"].unflatten(equation.invars)
        mask = third if load else fourth  # (ref, transforms, mask, other), (ref, transforms, value, mask)
    if mask is None:
        did.read_bytes += load * bytes_of(moved)
        did.written_bytes += store * bytes_of(moved)
    else:
        size = bytes_of(moved) // math.prod(mask.aval.shape)  # of what one lane of the mask stands for
        did.masked.append((load * size, store * size))
        did.masks.append(mask)


def copy_started(equation: Any, did: Did, gpu: bool) -> None:
    """A TPU's copy: counted on the side that is HBM."""
    source, target, *_ = equation.params["tree"].unflatten([operand.aval for operand in equation.invars])
    size = bytes_of(source)
    did.read_bytes += size * in_hbm(source)
    did.written_bytes += size * in_hbm(target)


def in_hbm(ref: Any) -> bool:
    memory = getattr(getattr(ref, "ref", ref), "memory_space", None)
    return memory is None or str(getattr(memory, "value", memory)) in HBM


COUNTED: dict[str, Callable[[Any, Did, bool], None]] = {
    "dot_general": dot,
    "exp": exponential,
    "exp2": exponential,
    "get": loaded,
    "masked_load": loaded,
    "swap": stored,
    "masked_swap": stored,
    "addupdate": added,
    "dma_start": copy_started,
}


# A TPU's pipeline.


def count_blocks(kernel: str, tally: Tally, mapping: Any, arguments: Sequence[Any]) -> None:
    """Counts, each time that what is traced now runs, the blocks that the grid copies."""
    if mapping.num_dynamic_grid_bounds:
        tally.uncounted[kernel] = "its grid is not known before it runs"
        return
    scalars = arguments[mapping.slice_index_ops]
    places = jnp.unravel_index(jnp.arange(math.prod(mapping.grid)), mapping.grid) if mapping.grid else ()
    outputs = len(mapping.block_mappings) - mapping.num_outputs
    for number, block in enumerate(mapping.block_mappings):
        if block.transformed_block_aval.memory_space is not None and in_hbm(block.transformed_block_aval):
            continue
        size, times = bytes_of(block.transformed_block_aval), jnp.int32(1)
        if places:
            starts = jax.vmap(lambda *at, block=block: block.compute_start_indices_interpret(at, *scalars))(*places)
            moved = jnp.stack([jnp.asarray(start, jnp.int32) for start in starts])
            times = 1 + (moved[:, 1:] != moved[:, :-1]).any(0).sum()
        of = (0, size) if number >= outputs else (size, 0)
        jax.debug.callback(functools.partial(tally.copied, *of), times)
