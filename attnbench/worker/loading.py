"""The backends of a worker: ours, those of installed entry points and of --plugin, in here or in other processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench import plugins
from attnbench.backend import Base
from attnbench.backends import builtin

if TYPE_CHECKING:
    from attnbench.interpreters.session import Session
    from attnbench.untrusted.session import Session as Candidates

# Languages of kernels that need a GPU, or an interpreter, by the module that a plugin imports for them.
LANGUAGES = {"Triton": "triton", "Pallas": "jax.experimental.pallas"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """given: the names of those that --plugin gave. languages: of kernels, that plugins imported. candidates: the
    processes of untrusted plugins."""

    backends: dict[str, Base]
    given: tuple[str, ...]
    languages: tuple[str, ...]
    candidates: Candidates | None = None


def load(specs: Sequence[str], interpret: str, device: str, ahead: Callable[[], None]) -> Loaded:
    """Imports plugins into this process. interpret: the mode of interpreters, "" for none. ahead: called before the
    specs are imported, but for interpreters, which replace functions of torch themselves. Raises a user error."""
    session = _interpreters(interpret, device)
    with contextlib.nullcontext() if session is None else session.importing():
        installed = plugins.installed()
        if specs and session is None:
            ahead()
        loaded = plugins.load(specs, taken=builtin(), known=installed)
    given = tuple(name for name in loaded if name not in installed)
    backends = builtin() | loaded
    if session is not None:
        backends = session.backends(backends, given)
    return Loaded(backends, given, tuple(name for name, module in LANGUAGES.items() if given and module in sys.modules))


def load_untrusted(specs: Sequence[str], device: str, threads: int) -> Loaded:
    """The same where other processes import the plugins. threads: of torch in each, 0: as the environment says."""
    from attnbench.untrusted.session import Session as Candidates

    candidates = Candidates(specs, device, threads)
    return Loaded(candidates.backends(builtin()), tuple(candidates.given), candidates.languages, candidates)


def _interpreters(mode: str, device: str) -> Session | None:
    """Raises a user error where there is none."""
    if not mode:
        return None
    from attnbench.interpreters.session import InterpretError, Session

    if device != "cpu":
        raise InterpretError(f"--interpret runs kernels on the CPU, not on {device}; add --device cpu")
    return Session(mode)
