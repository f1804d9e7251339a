"""A finding: one thing that `doctor` looked at, how grave it is, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

OK, ADVICE, PROBLEM, NOT_APPLICABLE = "ok", "advice", "problem", "not applicable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    severity: problem (a measurement here is wrong or cannot run), advice (it can be better), ok, not applicable.
    why: what it does to a measurement; mend: the command, or the step, that mends it. Both "" where all is well.
    """

    severity: str
    what: str
    why: str = ""
    mend: str = ""
