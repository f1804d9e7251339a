"""Launches of Triton kernels, caught where Triton would compile them for a GPU, and run by the interpreter.

Triton's own code binds and specializes the arguments, and its compiler makes the intermediate representation as for a
Hopper GPU (`ttir`, with the passes that belong to it). What is replaced: the driver (`triton.runtime.driver`), what
compiles (`JITFunction._do_compile`), and the autotuner's choice, which needs a clock.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnbench.backend import HazardError
from attnbench.interpreters.backend import Conditions
from attnbench.interpreters.triton import processes, stand_ins
from attnbench.interpreters.triton.flow import has_atomics, largest_tensor, orders_programs, stored_arguments
from attnbench.interpreters.triton.ir import Function, IRError, Type
from attnbench.interpreters.triton.machine import Machine
from attnbench.interpreters.triton.memory import Counts, Memory
from attnbench.interpreters.triton.memory_operations import Descriptor
from attnbench.interpreters.triton.numbers import DTYPES, NotInterpreted, dtype_of
from attnbench.interpreters.triton.operations import HANDLERS
from attnbench.interpreters.triton.reader import functions_of

# What kernels are compiled for, so that they take the paths that Hopper takes.
CAPABILITY, WARP = 90, 32
# Elements of a launch's largest tensor, over all programs that run together: what fits into a core's caches.
ELEMENTS_AT_ONCE = 1 << 17
# A launch that would take longer is not begun in earnest.
LONGEST_LAUNCH_S = 600.0


@dataclass
class Interpreter:
    """What happens in a process: the conditions of the next launches, and what the last ones did.

    counts: of the launches since `forget`. undefined: source lines of loads whose masked lanes hold what nobody gave.
    configs: of autotuned kernels, the names of their configurations; taken: of those, the one that ran. unordered:
    kernels whose programs wait for each other through atomics, so that no races are looked for. timed_choice: the
    autotuner's own, which was replaced. processes: how many a launch may be spread over.
    """

    processes: int = 1
    conditions: Conditions = field(default_factory=Conditions)
    counts: list[Counts] = field(default_factory=list)
    undefined: set[str] = field(default_factory=set)
    configs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    unordered: set[str] = field(default_factory=set)
    kernels: list[str] = field(default_factory=list)
    timed_choice: Any = None

    def forget(self) -> None:
        """Before a call: what is told afterwards is of that call."""
        self.counts.clear()
        self.kernels.clear()
        self.undefined.clear()


@functools.cache
def install() -> Interpreter:
    """Puts the interpreter in the place of Triton's driver, compiler and autotuner, for the whole process.

    NOTE: once: Triton keeps what was compiled for a kernel, and with it the interpreter that will run it.
    """
    import triton.runtime.autotuner
    import triton.runtime.driver
    import triton.runtime.jit
    from triton.compiler.errors import CompileTimeAssertionFailure

    interpreter = Interpreter(timed_choice=triton.runtime.autotuner.Autotuner.run)
    triton.runtime.driver.set_active(Driver())

    def compiled(self: Any, key: Any, signature: Any, device: Any, constants: Any, options: Any, attributes: Any,
                 warmup: Any) -> Any:  # fmt: skip
        cache = self.device_caches[device][0]
        cache[key] = kernel = Kernel(interpreter, self, signature, constants, options, attributes)
        return kernel

    def chosen(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args))
        configs = self.prune_configs(kwargs) if len(self.configs) > 1 else self.configs
        name = self.base_fn.__name__
        interpreter.configs[name] = tuple(str(config) for config in configs)
        first = interpreter.conditions.config % len(configs)
        for config in (candidates := [*configs[first:], *configs[:first]]):
            self.best_config = config
            interpreter.taken[name] = str(config)
            if config.pre_hook is not None:
                config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
            try:
                return self.fn.run(*args, **{**kwargs, **config.all_kwargs()})
            except CompileTimeAssertionFailure:  # as the autotuner does: one that the kernel refuses is not taken
                if config is candidates[-1]:
                    raise
        return None

    triton.runtime.jit.JITFunction._do_compile = compiled
    triton.runtime.autotuner.Autotuner.run = chosen
    return interpreter


class Driver:
    """A driver as far as Triton asks one before a launch."""

    class _Utilities:
        def get_device_properties(self, device: int) -> dict[str, int]:
            properties: dict[str, Any] = stand_ins.PROPERTIES
            return {
                "max_shared_mem": properties["shared_memory_per_block_optin"],
                "max_num_regs": properties["regs_per_multiprocessor"],
                "multiprocessor_count": properties["multi_processor_count"],
                "warpSize": WARP,
            }  # fmt: skip

    def __init__(self) -> None:
        self.utils = self._Utilities()

    def is_active(self) -> bool:
        return True

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
        return stand_ins.CAPABILITY

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CAPABILITY, WARP)

    def get_active_torch_device(self) -> torch.device:
        return stand_ins.ASKED_DEVICE

    def get_device_interface(self) -> Any:
        return torch.cuda


class Metadata:
    """Facts of a compiled kernel that wrappers read: none is known here."""

    shared = 0
    num_warps = 4
    num_stages = 1


class Kernel:
    """What stands for a compiled kernel; `run` takes a launch as Triton hands it over."""

    function = packed_metadata = None
    n_regs = n_spills = 0

    def __init__(self, interpreter: Interpreter, source: Any, signature: Mapping[str, Any], constants: Any,
                 options: Any, attributes: Any):  # fmt: skip
        self.interpreter, self.signature = interpreter, signature
        self.name = source.fn.__name__
        self.metadata = Metadata()
        self.asm: dict[str, str] = {}
        text = ttir(source, signature, constants, options, attributes)
        self.asm["ttir"] = text
        self.functions = functions_of(text)
        self.entry = next(iter(self.functions.values()))
        self.largest = largest_tensor(self.functions.values())
        self.stored = stored_arguments(self.functions, self.entry)
        self.waits = any(orders_programs(function) for function in self.functions.values())
        # Whether a launch may be spread over processes, and by grid what one took in this one.
        self.spreads = not has_atomics(self.functions.values())
        self.alone_s: dict[tuple[int, int, int], float] = {}

    def launch_metadata(self, *args: Any) -> None:
        return None

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        """A further launch of what a first one returned, as wrappers that keep compiled kernels do (flag-gems)."""

        def launch(*arguments: Any) -> None:
            self.run(*(*grid, 1, 1)[:3], 0, None, None, None, None, None, *arguments)

        return launch

    def run(self, x: int, y: int, z: int, stream: Any, function: Any, packed: Any, metadata: Any, enter: Any,
            leave: Any, *arguments: Any) -> None:  # fmt: skip
        with stand_ins.as_it_is():
            self.interpret((int(x), int(y), int(z)), arguments)

    def interpret(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """One launch. Raises HazardError, NotInterpreted."""
        interpreter, conditions = self.interpreter, self.interpreter.conditions
        given = [
            value for value, kind in zip(arguments, self.signature.values(), strict=True) for value in flat(value, kind)
        ]
        values, tensors = bound(self.entry, given)
        stored = [tensor for place, tensor in enumerate(tensors) if tensor is not None and place in self.stored]
        memory = Memory((t for t in tensors if t is not None), stored, conditions.poisoned, races=not self.waits)
        machine = Machine(self.functions, HANDLERS, memory, grid)
        try:
            self.run_programs(grid, memory, lambda programs: machine.run_programs(self.entry, values, programs))
        except (IRError, NotInterpreted) as error:
            raise NotInterpreted(f"{self.name}: {error}") from None
        except HazardError as error:
            raise HazardError(f"{self.name}: {error}") from None
        if self.waits:
            interpreter.unordered.add(self.name)
        interpreter.kernels.append(self.name)
        interpreter.counts.append(memory.counts)
        interpreter.undefined |= memory.undefined

    def run_programs(self, grid: tuple[int, int, int], memory: Memory, run: Callable[[Tensor], None]) -> None:
        """All of a launch in the order of the conditions: some at a time, what takes long in several processes."""
        count = math.prod(grid)
        order, size = self.ordered(count), self.at_once()

        def alone(programs: Tensor) -> None:
            for _ in in_groups(programs, size, run, count):
                pass

        done, started = 0, time.monotonic()
        groups = in_groups(order, size, run, count)
        while done < count:
            left_s = (time.monotonic() - started) / done * (count - done) if done else self.alone_s.get(grid, 0.0)
            if left_s > processes.WORTH_S and self.spread(memory, alone, order[done:]):
                return
            done += next(groups)
        self.alone_s[grid] = time.monotonic() - started

    def spread(self, memory: Memory, alone: Callable[[Tensor], None], programs: Tensor) -> bool:
        """Whether these programs were run in several processes. NOTE: a kernel that once was not is never again."""
        count = self.interpreter.processes
        if count > 1 and self.spreads and processes.possible():
            self.spreads = processes.spread(memory, alone, list(processes.shares_of(programs, count)))
            return self.spreads
        return False

    def ordered(self, count: int) -> Tensor:
        """The programs' numbers, in the order of the conditions."""
        seed = self.interpreter.conditions.order
        if seed is None:
            return torch.arange(count)
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    def at_once(self) -> int:
        """How many programs run together."""
        if self.waits or self.interpreter.conditions.one_by_one:
            return 1
        return max(1, ELEMENTS_AT_ONCE // self.largest)


def in_groups(programs: Tensor, size: int, run: Callable[[Tensor], None], count: int) -> Iterator[int]:
    """Runs so many programs at a time, and gives how many. count: of the launch, to be told. Raises TooLong."""
    started, done = time.monotonic(), 0
    for group in torch.tensor_split(programs, tuple(range(size, len(programs), size))):
        run(group)
        done += len(group)
        yield len(group)
        whole_s = (time.monotonic() - started) / done * len(programs)
        if whole_s > LONGEST_LAUNCH_S and done < len(programs):
            minutes = f"about {whole_s / 60:.0f} minutes"
            raise processes.TooLong(f"a launch of {count:,} programs would take {minutes} to interpret")


def ttir(source: Any, signature: Any, constants: Any, options: Any, attributes: Any) -> str:
    """The text of a kernel's intermediate representation, after the passes that compilation begins with."""
    from triton._C.libtriton import ir
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    target = Driver().get_current_target()
    backend = make_backend(target)
    made = ASTSource(source, signature, constants, attributes)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, made.language)
    codegen, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = made.make_ir(target, options, codegen, modules, context)
    return str(stages["ttir"](module, {}))


# Arguments.


def flat(value: Any, kind: Any) -> Iterator[Any]:
    """What of an argument is handed to the kernel: not what it is compiled for; a tuple's parts one by one."""
    if isinstance(kind, tuple):
        for part, of in zip(value, kind):
            yield from flat(part, of)
    elif kind != "constexpr":
        yield value


def bound(entry: Function, given: Sequence[Any]) -> tuple[list[Any], list[Tensor | None]]:
    """Values of the function's arguments, and by place the tensors that they point into.

    A host's tensor descriptor stands for itself, then its sizes and strides.
    """
    arguments, values, tensors = list(entry.arguments), list[Any](), list[Tensor | None]()
    for value in given:
        kind = arguments[len(values)][1]
        tensor = pointed(value)
        if kind.element.startswith("tensordesc"):
            assert tensor is not None, "a descriptor is of a tensor"
            values.append(described(value, tensor))
            tensors.append(tensor)
            for size in itertools.chain(value.shape, value.strides):
                if len(values) < len(arguments):
                    values.append(scalar(size, arguments[len(values)][1]))
                    tensors.append(None)
            continue
        values.append(scalar(value if tensor is None else tensor.data_ptr(), kind))
        tensors.append(tensor)
    if len(values) != len(arguments):
        raise NotInterpreted(f"{entry.name} takes {len(arguments)} values, not {len(values)}")
    return values, tensors


def pointed(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    inner = getattr(value, "base", None)
    return inner if isinstance(inner, Tensor) else None


def scalar(value: Any, kind: Type) -> Tensor:
    if not isinstance(value, (int, float, bool)):
        raise NotInterpreted(f"an argument of type {type(value).__name__} is not interpreted")
    dtype = dtype_of(kind.element)
    if not dtype.is_floating_point and dtype != torch.bool:
        bits = 8 * dtype.itemsize
        value = (int(value) + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    return torch.tensor([value], dtype=torch.float64 if dtype.is_floating_point else dtype).to(dtype)


def described(value: Any, tensor: Tensor) -> Descriptor:
    sizes, strides = (tuple(torch.tensor([int(x)]) for x in of) for of in (value.shape, value.strides))
    element = next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)
    padding = str(getattr(value, "padding", "")) == "nan"
    return Descriptor(torch.tensor([tensor.data_ptr()]), sizes, strides, element, padding)


def total(counts: Iterable[Counts]) -> Counts:
    """Of several launches."""
    summed = Counts()
    for one in counts:
        summed.add(one)
    return summed
