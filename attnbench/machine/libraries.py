"""Libraries that others wrote: is one installed, in which version, and is that the one it was tested in."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.machine.facts import installed_version, module_installed

CPU_PEERS = 'pip install "attnbench[cpu-peers]"'


@dataclass(frozen=True)
class Library:
    """distribution, module: what pip and Python call it. tested: the version that the backends of it were tested in.
    get: the command that installs it. needs: a further one without which it cannot be used."""

    distribution: str
    module: str
    tested: str
    get: str = CPU_PEERS
    needs: Library | None = None

    def version(self) -> str:
        return f"{self.distribution} {installed_version(self.distribution) or 'not installed'}"

    def unavailable(self) -> str | None:
        """Why it cannot be used, with the way out; None where it can. Imports nothing."""
        if not module_installed(self.module):
            return f"{self.distribution} is not installed; get it with: {self.get}"
        return self.needs.unavailable() if self.needs else None

    def untested(self) -> tuple[str, ...]:
        """A line where another version than the tested one is installed."""
        found = installed_version(self.distribution)
        if found is None or found.partition("+")[0] == self.tested:
            return ()
        return (f"{self.distribution} {found} is installed; the backend was tested with {self.tested}",)
