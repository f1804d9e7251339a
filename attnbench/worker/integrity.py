"""What judges and what measures, compared with how it was before a plugin was imported.

A plugin shares the process with judge, oracle, timer and clock. Functions that it replaced are put back, and its record
is an error that names them; settings that it changed (threads, dtypes, signal handlers, limits, ...) are put back, and
its record says which. What code can undo before anybody looks, or reach past Python, needs a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from attnbench.backend import ContractError
from attnbench.messages import STACKS_SIGNAL

# Of this package: all that has a part in a verdict or a time.
JUDGING = (
    "backend", "case", "contract", "correctness", "failures", "messages", "records", "reference", "settings", "timing",
    "worker",
)  # fmt: skip
# Of variables: those that steer a library's threads, its kernels or its precision.
STEERING = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "TORCH_",
    "PYTORCH_",
    "CUDA_",
    "CUBLAS_",
    "NVIDIA_",
    "ATTNBENCH_",
)
# What importing torch's compiler replaces, and nothing here uses.
REPLACED_BY_TORCH = {"torch.manual_seed"}
DESCRIPTORS = (property, staticmethod, classmethod)
NAMED = 3  # of several changes in one line


class TamperedError(ContractError):
    """Something that judges or measures is not what it was before plugins were imported; it has been put back."""


class _Place(NamedTuple):
    """An attribute that holds a function or class; None: that the owner inherits one. names: the owner's, as they are
    now."""

    names: Mapping[str, Any]
    name: str
    held: Any
    owner: Any
    label: str


class _Code(NamedTuple):
    """A function, and what can be changed within it."""

    function: Any
    code: Any
    defaults: Any
    label: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Something of the process that a kernel may change and no other should feel. name: in words."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], None]


def import_what_judges() -> None:
    """Every module of JUDGING, so that none is first imported when a plugin is there already."""
    for name in JUDGING:
        module = importlib.import_module(f"attnbench.{name}")
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
            importlib.import_module(found.name)


class Integrity:
    """As it is now; made before plugins are imported, once all that judges is. `look` compares.

    broken: what was replaced so far, in words; "" for nothing.
    """

    def __init__(self) -> None:
        import_what_judges()
        self._places = list(_places())
        codes = [code for place in self._places if (code := _code(place)) is not None]
        self._codes = list({id(code.function): code for code in reversed(codes)}.values())
        self._settings = [(each, each.read()) for each in (*_of_torch(), *_of_the_process())]
        self._variables = dict(os.environ)
        self._changed: dict[str, dict[str, None]] = {}
        self.broken = ""

    def look(self, backend: str = "") -> None:
        """Puts back what changed, by whatever the backend did. Raises TamperedError where that judges or measures."""
        self._look_at_settings(self._changed.setdefault(backend, {}))
        replaced = [place for place in self._places if place.names.get(place.name) is not place.held]
        for place in replaced:
            if place.held is None:
                delattr(place.owner, place.name)
            else:
                setattr(place.owner, place.name, place.held)
        rewritten = [each for each in self._codes if _rewritten(each)]
        for each in rewritten:
            each.function.__code__, each.function.__defaults__ = each.code, each.defaults
        labels = [place.label for place in replaced] + [each.label for each in rewritten]
        if labels:
            more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
            self.broken = f"it replaced {', '.join(labels[:NAMED])}{more}, by which it is judged or measured"
            raise TamperedError(self.broken)

    def _look_at_settings(self, changed: dict[str, None]) -> None:
        for position, (setting, before) in enumerate(self._settings):
            now = setting.read()
            if now == before:
                continue
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # a hard limit that was lowered stays so
                setting.restore(before)
            changed[f"{setting.name} from {_shown(before)} to {_shown(now)}"] = None
            self._settings[position] = setting, setting.read()
        for name in sorted(self._variables.keys() | os.environ.keys()):
            before, now = self._variables.get(name), os.environ.get(name)
            if before == now or not name.startswith(STEERING):
                continue
            changed[f"{name} from {_shown(before)} to {_shown(now)}"] = None
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

    def accepted(self) -> str:
        """Once plugins are imported: what they replaced, in words, "" for nothing. Variables that they set stay: their
        libraries read them later."""
        self._variables = dict(os.environ)
        imported, self.broken = self.broken, ""
        return imported and f"while it was imported, {imported}"

    def told(self, backend: str) -> tuple[str, ...]:
        """A warning on what the backend changed since this was last asked."""
        changed = list(self._changed.pop(backend, {}))
        if not changed:
            return ()
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        return (f"it changed {'; '.join(changed[:NAMED])}{more}: put back",)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(getattr(value, "__name__", value))
    return text if len(text) <= 40 else text[:37] + "..."


def _places() -> Iterator[_Place]:
    import torch

    judging = tuple(f"attnbench.{name}" for name in JUDGING)
    for name, module in list(sys.modules.items()):
        if name in judging or name.startswith(tuple(f"{each}." for each in judging)):
            yield from _of_module(module, name)
    yield from _of_owner(time, "time")
    for owner, label in ((torch, "torch"), (torch.cuda, "torch.cuda"), (torch.linalg, "torch.linalg")):
        yield from _of_owner(owner, label)
    for each in torch.Tensor.__mro__[:-1]:
        yield from _of_owner(each, f"torch.{each.__name__}")
    own = vars(torch.Tensor)
    for name in (name for name in dir(torch.Tensor) if name not in own):
        yield _Place(own, name, None, torch.Tensor, f"torch.Tensor.{name}")


def _of_module(module: ModuleType, label: str) -> Iterator[_Place]:
    """Its functions and classes, and the methods of those that it defines."""
    yield from _of_owner(module, label)
    for name, held in list(vars(module).items()):
        if isinstance(held, type) and held.__module__ == module.__name__:
            yield from _of_owner(held, f"{label}.{name}")


def _of_owner(owner: Any, label: str) -> Iterator[_Place]:
    for name, held in list(vars(owner).items()):
        place = _Place(vars(owner), name, held, owner, f"{label}.{name}")
        if place.label not in REPLACED_BY_TORCH and (callable(held) or isinstance(held, DESCRIPTORS)):
            yield place


def _code(place: _Place) -> _Code | None:
    """Of a function of this package, which are those that can be rewritten in place to some end."""
    function = getattr(place.held, "__func__", place.held)
    if not isinstance(function, FunctionType) or not place.label.startswith("attnbench."):
        return None
    return _Code(function, function.__code__, function.__defaults__, place.label)


def _rewritten(each: _Code) -> bool:
    return each.function.__code__ is not each.code or each.function.__defaults__ is not each.defaults


def _of_torch() -> list[Setting]:
    import torch

    deterministic = torch.utils.deterministic
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return [
        Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
        Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Setting("torch's default device", torch.get_default_device, torch.set_default_device),
        Setting("gradients", torch.is_grad_enabled, torch._C._set_grad_enabled),
        Setting("deterministic mode", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        Setting("precision of fp32 products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        _attribute("filling of uninitialized memory", deterministic, "fill_uninitialized_memory"),
        _attribute("TF32 in products", matmul, "allow_tf32"),
        _attribute("sums in 16 bits", matmul, "allow_bf16_reduced_precision_reduction"),
        _attribute("TF32 in cuDNN", cudnn, "allow_tf32"),
    ]


def _attribute(name: str, owner: Any, attribute: str) -> Setting:
    return Setting(name, lambda: getattr(owner, attribute), lambda value: setattr(owner, attribute, value))


def _of_the_process() -> list[Setting]:
    settings = [
        Setting("the working folder", os.getcwd, os.chdir),
        Setting("the interpreter's switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        Setting("the trace function", sys.gettrace, sys.settrace),
        Setting("the profile function", sys.getprofile, sys.setprofile),
    ]
    for number in sorted(signal.valid_signals()):
        if number not in (signal.SIGKILL, signal.SIGSTOP, STACKS_SIGNAL):
            settings.append(_handler(number))
    for name in (name for name in dir(resource) if name.startswith("RLIMIT_")):
        settings.append(_limit(name, getattr(resource, name)))
    return settings


def _handler(number: int) -> Setting:
    def restore(handler: Any) -> None:
        if handler is not None:  # None: not from Python, and not to be set from it
            signal.signal(number, handler)

    named = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return Setting(f"the handler of {named}", lambda: signal.getsignal(number), restore)


def _limit(name: str, number: int) -> Setting:
    return Setting(f"{name}", lambda: resource.getrlimit(number), lambda limit: resource.setrlimit(number, limit))
