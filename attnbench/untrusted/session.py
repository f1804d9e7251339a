"""The plugins of a run that are not trusted: a candidate process each, and their backends for the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from attnbench.backend import Base, RemoteError
from attnbench.errors import UserError
from attnbench.plugins import ENTRY_POINTS, PluginError
from attnbench.printable import one_line
from attnbench.untrusted.process import Candidate, Patience, Setup
from attnbench.untrusted.proxy import Proxy
from attnbench.untrusted.traits import checked

# The spec of all installed entry points.
INSTALLED = ""
MOST_BACKENDS = 100


class UntrustedError(UserError):
    """Untrusted plugins cannot be run in this way; the message says why, and the way out."""


class Plugin:
    """One spec, and the candidate process that runs it now."""

    def __init__(self, spec: str | None, setup: Setup):
        self.spec, self._setup = spec, setup
        self._candidate: Candidate | None = None
        self.said: dict[str, Any] = {}

    def running(self) -> Candidate:
        """The candidate process, a fresh one where there is none any more. Raises RemoteError and PluginError."""
        if self._candidate is None or self._candidate.ended:
            self._candidate = Candidate(self.spec, self._setup)
            try:
                self.said = self._candidate.start()
            except BaseException:
                self._candidate.end()
                raise
            if "refused" in self.said:
                self._candidate.end()
                raise PluginError(one_line(str(self.said["refused"])))
        return self._candidate

    def traits(self) -> list[dict[str, Any]]:
        """What its backends say of themselves, one each. Raises PluginError."""
        called = f'plugin "{self.spec}"' if self.spec else "an installed plugin"
        try:
            self.running()
            said = self.said.get("backends")
            if not isinstance(said, list) or len(said) > MOST_BACKENDS:
                raise RemoteError("contract", f"it declared {str(said)[:60]!r} as its backends")
            return [checked(one) for one in said]
        except RemoteError as error:
            raise PluginError(f"{called} does not import: {one_line(str(error))}") from None

    def listed(self, name: str) -> list[str]:
        found = self.said.get(name)
        return [one_line(str(text)) for text in found] if isinstance(found, list) else []

    def end(self) -> None:
        if self._candidate is not None:
            self._candidate.end()


class Session:
    """given, installed: the backends of --plugin and of entry points. missing: protection that this system lacks."""

    def __init__(self, specs: Sequence[str], device: str, threads: int):
        """threads: of torch in each candidate, 0: as the environment says. Raises UserError."""
        if device != "cpu":
            raise UntrustedError(f"--untrusted runs plugins on the CPU so far, not on {device}; add --device cpu")
        self.patience = Patience()
        protection = {"specs": list(specs)}
        self._setup = Setup(threads, self.patience, protection)
        self._spare = Plugin(None, Setup(threads, self.patience))
        self._plugins: list[Plugin] = []
        self.installed: dict[str, Base] = {}
        self.given: dict[str, Base] = {}
        try:
            if entry_points(group=ENTRY_POINTS):
                self._add(INSTALLED, self.installed)
            for spec in specs:
                self._add(spec, self.given)
        except BaseException:
            self.end()
            raise

    def _add(self, spec: str, found: dict[str, Base]) -> None:
        plugin = Plugin(spec, self._setup)
        self._plugins.append(plugin)
        for traits in plugin.traits():
            name = traits["name"]
            if name in self.installed or name in self.given:
                raise PluginError(f'two plugin backends are named "{name}"; rename one')
            found[name] = Proxy(traits, plugin.running, self._spare.running)

    def backends(self, builtin: dict[str, Base]) -> dict[str, Base]:
        """All that there are. Raises PluginError."""
        found = self.installed | self.given
        for name in found:
            if name in builtin:
                raise PluginError(f'a plugin backend is named "{name}" like a built-in one; rename it')
        return builtin | found

    @property
    def languages(self) -> tuple[str, ...]:
        """Of kernels that need a GPU or an interpreter, as far as a plugin imported one."""
        return tuple(dict.fromkeys(name for plugin in self._plugins for name in plugin.listed("languages")))

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for plugin in self._plugins for text in plugin.listed("missing")))

    def wait(self, call_s: float, compile_s: float, alive: Callable[[], None]) -> None:
        """How long calls of the case at hand may take, and whom to tell meanwhile that they are waited for."""
        self.patience.call_s, self.patience.compile_s, self.patience.alive = call_s, compile_s, alive

    def end(self) -> None:
        for plugin in (*self._plugins, self._spare):
            plugin.end()
