"""Kernels that are not ours: `file.py:function`, `module:function`, `file.py` with BACKENDS, installed entry points.

Only a worker imports a plugin: code that crashes while it is imported must not take the run with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from attnbench.backend import Backend, Base, Call, ContractError, Inputs, Outputs, completed
from attnbench.case import FURTHER_FIELDS, Case, alignments_differ
from attnbench.errors import UserError
from attnbench.printable import one_line, printable
from attnbench.redaction import redacted

ENTRY_POINTS = "attnbench.backends"
# What tracebacks call the frames of Python's own import system.
IMPORT_SYSTEM = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")


class PluginError(UserError):
    """A plugin that cannot be used; the message names it and the way out."""


@dataclass(frozen=True)
class FunctionBackend(Base):
    """A plain function as a backend: function(q, k, v, *, causal, softmax_scale) -> out or (out, lse).

    Further fields of a case are told to a function that takes an argument of their name.
    """

    name: str
    function: Callable[..., Any]
    source: str
    deterministic: bool | frozenset[str] = True

    def version(self) -> str:
        return self.source

    def unsupported(self, case: Case) -> str | None:
        if case.mask_alignment == "top_left" and alignments_differ(case) and not self.takes("mask_alignment"):
            return 'it is not told where the causal mask lies: give it the argument "mask_alignment"'
        if case.kv_dtype is not None and not self.takes("kv_dtype"):
            return f'k and v in {case.kv_dtype} beside {case.dtype}: give it the argument "kv_dtype" if it takes them'
        if case.is_fp8:
            return f"a plugin function gets no descales; give a module with BACKENDS for {case.dtype}"
        return None

    def takes(self, name: str) -> bool:
        """Whether the function has an argument of this name; one without a signature to look at has none."""
        try:
            found = inspect.signature(self.function).parameters.get(name)
        except ValueError:
            return False
        return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        q, k, v, function = inputs.q, inputs.k, inputs.v, self.function
        more = {name: getattr(case, name) for name in FURTHER_FIELDS if self.takes(name)}
        options = {"causal": case.causal, "softmax_scale": case.scale, **more}

        def call() -> Outputs:
            result = function(q, k, v, **options)
            if isinstance(result, (tuple, list)):
                if len(result) != 2:
                    raise ContractError(f"{self.name} returned {len(result)} values; return out, or (out, lse)")
                return Outputs(*result)
            return Outputs(result)

        return call


def split_spec(spec: str) -> tuple[str, str]:
    """(file or module, function or ""); a folder's name may hold a colon."""
    place, separator, function = spec.rpartition(":")
    return (place, function) if separator and not spec.endswith(".py") else (spec, "")


def plain_spec(spec: str) -> str:
    """A spec with its file named from here, or by its bare name where it lies elsewhere: no path of this machine, and
    no secret."""
    place, function = split_spec(spec)
    path = Path(place)
    if path.is_absolute():
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return redacted(printable(f"{path}:{function}" if function else str(path)))


def announced_names(specs: Sequence[str]) -> list[str]:
    """What `list` and `--dry-run` call plugins without importing them: the function, or the file."""
    return [split_spec(spec)[1] or spec for spec in specs]


def installed_names() -> list[str]:
    """The same of installed entry points, whose backends have names of their own."""
    return [point.name for point in entry_points(group=ENTRY_POINTS)]


def check_spec(spec: str) -> None:
    """Raises PluginError for a spec that names no file and cannot name a module. Imports nothing."""
    place, _ = split_spec(spec)
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise PluginError(f'plugin "{spec}": no file {place}')
    elif ":" not in spec:
        raise PluginError(f'plugin "{spec}": give file.py:function, module:function, or file.py')


def names_unknown(specs: Sequence[str]) -> bool:
    """Whether some plugin is a module, whose backends' names are known only once it is imported."""
    return bool(entry_points(group=ENTRY_POINTS)) or not all(split_spec(spec)[1] for spec in specs)


def load(specs: Sequence[str], taken: Collection[str] = (), known: Mapping[str, Base] | None = None) -> dict[str, Base]:
    """The backends of all plugins by name, installed ones first. Raises PluginError with the import's own words.

    taken: names that no plugin may have, those of the built-in backends. known: what `installed` gave, if it was asked
    already: it reads the metadata of every distribution.
    """
    found = dict(installed() if known is None else known)
    for spec in specs:
        place, name = split_spec(spec)
        module = _imported(spec, partial(_import_file if place.endswith(".py") else importlib.import_module, place))
        _add(found, [_function(module, name, spec)] if name else _module_backends(module, spec))
    for name in found:
        if name in taken:
            raise PluginError(f'a plugin backend is named "{name}" like a built-in one; rename it')
    return found


def installed() -> dict[str, Base]:
    """The backends of installed entry points, by name. Raises PluginError."""
    found: dict[str, Base] = {}
    for point in entry_points(group=ENTRY_POINTS):
        module = _imported(point.value, partial(importlib.import_module, point.module))
        _add(found, _module_backends(module, point.value))
    return found


def _add(found: dict[str, Base], backends: Sequence[Base]) -> None:
    for backend in backends:
        if backend.name in found:
            raise PluginError(f'two plugin backends are named "{backend.name}"; rename one')
        found[backend.name] = backend


def _import_file(place: str) -> Any:
    """Each file once. NOTE: under a name of its own, or a plugin `numpy.py` would take numpy's place for everyone."""
    path = Path(place).resolve()
    name = f"attnbench_plugin_{zlib.crc32(str(path).encode()):08x}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # a plugin may import its neighbours
    spec.loader.exec_module(module)
    return module


def _imported(spec: str, do_import: Callable[[], Any]) -> Any:
    try:
        return do_import()
    except BaseException as error:  # whatever a module does at import, SystemExit included, is reported as one line
        last = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        raise PluginError(f'plugin "{spec}" does not import: {last}{_where(error)}') from None


def _where(error: BaseException) -> str:
    """` (file:line)` of the plugin's own line that raised, else of the library's; "" where only the import system did,
    which looked for the plugin in vain."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    importing = (__file__, importlib.__file__, *IMPORT_SYSTEM)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in importing]
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    frames = [frame for frame in frames if not frame.filename.startswith(libraries)] or frames
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _function(module: Any, name: str, spec: str) -> Base:
    function = getattr(module, name, None)
    if function is None:
        raise PluginError(f'plugin "{spec}": it has no "{name}"')
    if not callable(function):
        raise PluginError(f'plugin "{spec}": "{name}" is no function but {type(function).__name__}')
    try:
        inspect.signature(function).bind(None, None, None, causal=False, softmax_scale=1.0)
    except ValueError:
        pass  # a compiled function has no signature to look at; the call will tell
    except TypeError as error:
        raise PluginError(f'plugin "{spec}": must take (q, k, v, *, causal, softmax_scale): {error}') from None
    return FunctionBackend(name, function, source=f"{Path(split_spec(spec)[0]).name}:{name}")


def _module_backends(module: Any, spec: str) -> Sequence[Base]:
    backends = getattr(module, "BACKENDS", None)
    if not isinstance(backends, (tuple, list)) or not backends:
        raise PluginError(
            f'plugin "{spec}": a module needs BACKENDS = (backend, ...); for one function say "{spec}:function"'
        )
    for backend in backends:
        if isinstance(backend, type):
            name = backend.__name__
            raise PluginError(f'plugin "{spec}": {name} in BACKENDS is a class; put {name}() there')
        if isinstance(backend, Backend) and not (isinstance(backend.name, str) and backend.name):
            raise PluginError(f'plugin "{spec}": {type(backend).__name__}.name must be text, not {backend.name!r}')
        if isinstance(backend, Backend) and one_line(backend.name) != backend.name:
            raise PluginError(f'plugin "{spec}": {type(backend).__name__}.name holds no letter, {backend.name!r}')
        lacking = isinstance(backend, Base) and type(backend).prepare is Base.prepare
        if lacking or not isinstance(backend, Backend):
            members = ("name", "deterministic", "version", "unavailable", "unsupported", "prepare")
            missing = [name for name in members if not hasattr(backend, name)] + ["prepare"] * lacking
            raise PluginError(f'plugin "{spec}": {type(backend).__name__} in BACKENDS lacks {", ".join(missing)}')
    return [completed(backend) for backend in backends]
