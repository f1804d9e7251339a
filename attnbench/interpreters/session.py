"""`--interpret` in a measuring process: which interpreters run, and which backends go through them.

Nothing of this package is imported where nobody asks for an interpreter.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping

from attnbench.backend import Base
from attnbench.errors import UserError
from attnbench.interpreters.backend import Interpreted, Language

# What `--interpret` may name: nothing in particular, or one of jax's interpreters for Pallas.
MODES = ("auto", "hlo", "tpu")


class InterpretError(UserError):
    """Nothing here can interpret a kernel; the message says what to install."""


class Session:
    """The interpreters of a process. mode: "auto" (Triton's, and Pallas' as XLA operations), "hlo" or "tpu"."""

    def __init__(self, mode: str = "auto"):
        """Raises InterpretError where there is no interpreter, or for another mode."""
        if mode not in MODES:
            raise InterpretError(f"--interpret={mode}: give --interpret, --interpret=hlo or --interpret=tpu")
        self.languages = tuple(_languages(mode))
        if not self.languages:
            lacking, way = (
                ("neither Triton nor jax is", "pip install 'attnbench[triton]' or 'attnbench[jax]'")
                if mode == "auto"
                else ("jax is not", "pip install 'attnbench[jax]'")
            )
            given = "--interpret" if mode == "auto" else f"--interpret={mode}"
            raise InterpretError(f"{given}: {lacking} installed here; {way}")

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """While plugins are imported: what they ask of a GPU is answered."""
        with contextlib.ExitStack() as stack:
            for language in self.languages:
                stack.enter_context(language.inside())
            yield

    def backends(self, known: Mapping[str, Base], given: Iterable[str]) -> dict[str, Base]:
        """All backends; those of plugins (`given`) and those written in an interpreted language go through it."""
        own = {name for name, backend in known.items() if backend.language is not None}
        return {
            name: Interpreted(backend, self.languages) if name in own or name in set(given) else backend
            for name, backend in known.items()
        }

    def backend(self, backend: Base) -> Base:
        return Interpreted(backend, self.languages)


def _languages(mode: str) -> Iterator[Language]:
    if mode == "auto" and importlib.util.find_spec("triton") is not None:
        from attnbench.interpreters.triton.language import TritonLanguage

        yield TritonLanguage()
    if importlib.util.find_spec("jax") is not None:
        from attnbench.interpreters.pallas.language import PallasLanguage

        yield PallasLanguage("hlo" if mode == "auto" else mode, asked=mode != "auto")
