"""The one place where numbers become text. Seconds and bytes inside; a unit hint says how to show them."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

# Unit hints of metrics (see `metrics.Metric.unit`).
SECONDS, TFLOPS, BYTES, BYTES_PER_S, PERCENT, RATIO, ERROR = "s", "TFLOPS", "B", "B/s", "%", "x", "error"
MEGAHERTZ, WATTS, JOULES_PER_FLOP, CYCLES = "MHz", "W", "J/FLOP", "cycles"


def show(value: float | None, unit: str) -> str:
    """A value with its unit, for people: `1.234 ms`, `652 TFLOPS`, `66.0 %`; an em dash where there is none."""
    if value is None:
        return "—"
    return _SHOW[unit](value)


def show_time(time_s: float) -> str:
    """Four digits in us, ms or s."""
    for factor, name in ((1e6, "us"), (1e3, "ms")):
        if time_s * factor < 999.95:
            return f"{significant(time_s * factor, 4)} {name}"
    return f"{significant(time_s, 4)} s"


def show_bytes(count: float) -> str:
    """Three digits in B, KiB, MiB or GiB."""
    for name in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{significant(count, 3)} {name}"
        count /= 1024
    return f"{significant(count, 3)} GiB"


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits, without an exponent between 1e-4 and 1e6."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")  # 9.996 has one digit fewer after the point once it is rounded to 10.0
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def error(value: float) -> str:
    """A relative error: two digits and an exponent, so that a column of them lines up."""
    return f"{value:.1e}" if math.isfinite(value) else f"{value:g}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 case`, `1,200 cases`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class RateUnit(NamedTuple):
    """A unit of rates, and how many FLOP/s it is."""

    name: str
    flops_per_s: float

    def show(self, flops_per_s: float) -> str:
        """Three digits, without the unit."""
        return significant(flops_per_s / self.flops_per_s, 3)


TFLOPS_UNIT, GFLOPS_UNIT = RateUnit("TFLOPS", 1e12), RateUnit("GFLOPS", 1e9)
# Below so much a rate is told in GFLOPS.
LEAST_TFLOPS = 0.1


def rate_unit(*flops_per_s: float) -> RateUnit:
    """The unit that suits half of these rates at least, for a table or figure of them; TFLOPS where there are none."""
    if not flops_per_s:
        return TFLOPS_UNIT
    return GFLOPS_UNIT if statistics.median(flops_per_s) < LEAST_TFLOPS * 1e12 else TFLOPS_UNIT


def show_rate(flops_per_s: float, digits: int = 3) -> str:
    """A rate with the unit that suits it."""
    unit = rate_unit(flops_per_s)
    return f"{significant(flops_per_s / unit.flops_per_s, digits)} {unit.name}"


def lengths(count: int) -> str:
    """A sequence length as people write it: 4096 is 4k, 1000 stays 1000."""
    if count >= 1024 and count % 1024 == 0:
        return f"{count // 1024}k"
    return str(count)


_SHOW = {
    SECONDS: show_time,
    TFLOPS: lambda value: show_rate(value * 1e12),
    BYTES: show_bytes,
    BYTES_PER_S: lambda value: f"{significant(value / 1e9, 3)} GB/s",
    PERCENT: lambda value: f"{significant(value, 3)} %",
    MEGAHERTZ: lambda value: f"{value:.0f} MHz",
    WATTS: lambda value: f"{value:.0f} W",
    JOULES_PER_FLOP: lambda value: f"{significant(value * 1e12, 3)} pJ/FLOP",
    CYCLES: lambda value: f"{value:,.0f} cycles",
    RATIO: lambda value: f"{significant(value, 3)}x",
    ERROR: error,
}
