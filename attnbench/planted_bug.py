"""What a planted bug is: the right forward of `planted_forward` with one method overridden, the one it lives in."""

from __future__ import annotations

from attnbench.case import DTYPES, Case
from attnbench.planted_forward import Choices, TiledForward


class Planted(TiledForward):
    """A forward with one bug. `dtypes`: where it can be; `causal_only`: it lies in the mask."""

    dtypes: tuple[str, ...] = DTYPES
    causal_only = False

    def __init__(self, choices: Choices = Choices()):
        super().__init__(choices)
        self.name = _words(type(self).__name__)

    def unsupported(self, case: Case) -> str | None:
        if case.dtype not in self.dtypes:
            return f"the bug is one of {', '.join(self.dtypes)}"
        return "the bug lies in the causal mask" if self.causal_only and not case.causal else None


def _words(name: str) -> str:
    """`MaskSeesOneMore` -> `mask sees one more`"""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
