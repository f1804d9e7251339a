"""How large a difference must be to matter, and percentages as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_MARGIN = 0.01
# A difference counts from so many times on what the baseline differs from itself.
FLOORS = 2.0
# And the margin is never more than so many times what was asked: beyond that nothing is the same, or not slower by what
# somebody asked about, but not to be told.
WIDEST = 2.0
# From here on a percentage is harder to read than a factor.
TENFOLD = 10.0


@dataclass(frozen=True, slots=True)
class Margin:
    """How large a difference must be to matter: a fraction of the base time. noise_floor: of an A/A null, or None.

    `value` is what is called the margin. What is slower is slower by more than `noise` as well; what is the same is so
    within `asked`.
    """

    asked: float = DEFAULT_MARGIN
    noise_floor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.asked < 1:
            raise ValueError(f"a margin is between 0 and 100 %, not {self.asked:.4g}")

    @property
    def value(self) -> float:
        """The fraction that applies: what was asked, or `noise` where that is more, up to WIDEST x asked."""
        return min(max(self.asked, self.noise), WIDEST * self.asked)

    @property
    def noise(self) -> float:
        """FLOORS times the noise floor."""
        return FLOORS * (self.noise_floor or 0.0)

    @property
    def too_noisy(self) -> bool:
        """Whether the baseline differs from itself by so much that the margin would have to be wider than it may be."""
        return self.noise > self.value

    @property
    def log(self) -> float:
        """ln of what slower and faster ones are beyond: `value`, and `noise`."""
        return math.log1p(max(self.value, self.noise))

    @property
    def asked_log(self) -> float:
        """ln of what the same ones are within."""
        return math.log1p(self.asked)

    def __str__(self) -> str:
        if self.noise_floor is None:
            return f"{percent(self.value)} as asked"
        floor = f"A/A noise floor {percent(self.noise_floor)}"
        if self.too_noisy:
            return f"{percent(self.value)}, the widest where {percent(self.asked)} is asked; {floor}"
        if self.value > self.asked:
            return f"{percent(self.value)}: {FLOORS:g} times the {floor}, where {percent(self.asked)} was asked"
        return f"{percent(self.value)} as asked; {floor}"


def percent(fraction: float) -> str:
    """`1 %`, `0.35 %`: a size without a sign."""
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + " %"


def signed(fraction: float) -> str:
    """`+3.10 %`: a difference; from ten times the base time on, `12.5x` it."""
    return f"{100 * fraction:+.2f} %" if fraction < TENFOLD - 1 else f"{1 + fraction:.3g}x"
