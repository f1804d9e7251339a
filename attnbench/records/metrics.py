"""The table of metrics that are computed from records at read time.

FLOPs and bytes are those of `attnbench.case`: 2 FLOP per multiply-add; no FLOPs for the softmax; no credit for masked
or recomputed work; causal is bottom-right aligned. Every report prints these conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench import units
from attnbench.case import LaterCase, compulsory_bytes
from attnbench.records.record import MAX_ERROR, RELATIVE_RMSE, WORST_ROW

if TYPE_CHECKING:
    from attnbench.records.result import Result


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of one result. `of` gives None where the record does not hold what it needs; missing is never zero.

    name: the one that it has everywhere, `list metrics` and the DataFrame's columns alike, unit included. unit: a hint
    for `units.show`; better: "up" or "down".
    """

    name: str
    unit: str
    better: str
    about: str
    of: Callable[[Result], float | None]


def _timed(name: str) -> Callable[[Result], float | None]:
    return lambda result: None if result.statistics is None else getattr(result.statistics, name)


def _measured(name: str) -> Callable[[Result], float | None]:
    return lambda result: None if result.record.measurement is None else getattr(result.record.measurement, name)


def _recorded(name: str) -> Callable[[Result], float | None]:
    def of(result: Result) -> float | None:
        accuracy = result.record.accuracy
        return None if accuracy is None else accuracy.values.get(name)

    return of


def _relative_stdev(result: Result) -> float | None:
    statistics = result.statistics
    return None if statistics is None or statistics.relative_stdev is None else 100 * statistics.relative_stdev


def _tflops(result: Result) -> float | None:
    return None if result.flops_per_s is None else result.flops_per_s / 1e12


def _half_width(result: Result) -> float | None:
    return None if result.half_width is None else 100 * result.half_width


def _bytes_per_s(result: Result) -> float | None:
    if result.time_s is None or isinstance(result.case, LaterCase):
        return None
    return compulsory_bytes(result.case) / result.time_s


def _prep_and_kernel_s(result: Result) -> float | None:
    return None if result.time_s is None or result.prep_s is None else result.prep_s + result.time_s


def _prep_call_s(result: Result) -> float | None:
    measurement = result.record.measurement
    return None if measurement is None or measurement.prep_call is None else result.prep_s


def _of_ceiling(ceiling: str) -> Callable[[Result], float | None]:
    def of(result: Result) -> float | None:
        limit = getattr(result, ceiling)
        return None if result.flops_per_s is None or limit is None else 100 * result.flops_per_s / limit

    return of


def _cycles(result: Result) -> float | None:
    clock_mhz = result.sm_clock_mhz
    return None if clock_mhz is None or result.time_s is None else result.time_s * clock_mhz * 1e6


def _check(rule: str) -> Callable[[Result], float | None]:
    return lambda result: result.check_value(rule)


METRICS = (
    Metric("median_s", units.SECONDS, "down", "median seconds per call", _timed("median_s")),
    Metric("p10_s", units.SECONDS, "down", "10th percentile of the samples", _timed("p10_s")),
    Metric("p90_s", units.SECONDS, "down", "90th percentile of the samples", _timed("p90_s")),
    Metric("min_s", units.SECONDS, "down", "fastest sample", _timed("min_s")),
    Metric("mean_s", units.SECONDS, "down", "mean of the samples", _timed("mean_s")),
    Metric("ci_half_width_pct", units.PERCENT, "down", "half-width of the median's interval", _half_width),
    Metric("relative_stdev_pct", units.PERCENT, "down", "standard deviation / mean", _relative_stdev),
    Metric("tflops", units.TFLOPS, "up", "forward FLOPs / median_s", _tflops),
    Metric("pct_peak", units.PERCENT, "up", "tflops / datasheet's dense peak", _of_ceiling("peak_flops_per_s")),
    Metric("pct_gemm", units.PERCENT, "up", "tflops / the run's own bf16 GEMM", _of_ceiling("gemm_flops_per_s")),
    Metric(
        "pct_peak_at_clock",
        units.PERCENT,
        "up",
        "tflops / dense peak at the SM clock observed",
        _of_ceiling("peak_at_clock_flops_per_s"),
    ),
    Metric("sm_clock_mhz", units.MEGAHERTZ, "up", "mean SM clock while timed", lambda result: result.sm_clock_mhz),
    Metric("sm_cycles", units.CYCLES, "down", "median_s x mean SM clock", _cycles),
    Metric("power_w", units.WATTS, "down", "mean power while timed", lambda result: result.power_w),
    Metric(
        "joules_per_flop",
        units.JOULES_PER_FLOP,
        "down",
        "power_w / FLOPs per second",
        lambda result: result.joules_per_flop,
    ),
    Metric("bytes_per_s", units.BYTES_PER_S, "up", "compulsory bytes / median_s", _bytes_per_s),
    Metric("prep_s", units.SECONDS, "down", "wall time of `prepare`", _measured("prep_s")),
    Metric("prep_call_s", units.SECONDS, "down", "FP8: quantization, which each call needs", _prep_call_s),
    Metric("prep_and_kernel_s", units.SECONDS, "down", "prep and one call", _prep_and_kernel_s),
    Metric("compile_s", units.SECONDS, "down", "first call beyond a later one", _measured("compile_s")),
    Metric("peak_bytes", units.BYTES, "down", "peak memory, inputs included", _measured("peak_bytes")),
    Metric("relative_rmse", units.ERROR, "down", "RMSE / RMS of the oracle", _check(RELATIVE_RMSE)),
    Metric("worst_row", units.ERROR, "down", "the worst row's relative RMSE", _check(WORST_ROW)),
    Metric("max_error", units.ERROR, "down", "largest error / RMS of the oracle", _check(MAX_ERROR)),
    Metric("e1", units.ERROR, "down", "FP8: the kernel's own relative RMSE", _recorded("e1")),
    Metric("e2", units.ERROR, "down", "FP8: what quantization alone costs", _recorded("e2")),
    Metric("e3", units.ERROR, "down", "FP8: end to end, against the originals", _recorded("e3")),
)
