"""Estimators for reading timing samples. Nothing here judges one run against another; that is `compare`'s part."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, TypeVar

from attnbench.records.measurement import TWO_SPEEDS, Block, Measurement

if TYPE_CHECKING:
    import numpy


Sliced = TypeVar("Sliced", Sequence[float], "numpy.ndarray")

CONFIDENCE = 0.95
# B. Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research 30 (1982): 10 to 30
# batches; more of them gain little and let the correlation between neighbouring batches back in.
BATCHES = 10
SAMPLES_PER_BATCH = 3
# B. Iglewicz and D. Hoaglin, "How to detect and handle outliers" (ASQC, 1993): 0.6745 makes the MAD, and 1.253314 the
# mean absolute deviation, consistent with the standard deviation of a normal sample. They advise a limit of 3.5; timing
# has long right tails, so only what no jitter explains is flagged.
MAD_TO_Z = 0.6745
MEAN_DEVIATION_TO_Z = 1.253314
OUTLIER_Z = 10.0
# Two speeds in one measurement: two clusters of samples with nothing between them. Each holds this share of the samples
# and so many of them, since fewer are a tail or bad luck.
CLUSTER_SHARE, CLUSTER_SAMPLES = 0.2, 10
# The gap is so many times the wider cluster's spread. Of smooth distributions (normal, uniform, exponential, lognormal,
# Student's t) no more than 1 in 10,000 drawn samples of 20 or more reach it.
CLUSTER_GAP = 2.0
# It is more than this fraction of the lower speed: neighbouring ticks of a timer are two values as well, and a timed
# region is at least 100 of them long.
CLUSTER_STEP = 0.03
# Measurements whose samples are sorted in one go: enough that numpy's calls cost nothing, a few megabytes of samples.
TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of the median, in seconds, with the coverage that its order statistics really have.

    units: how many independent values it comes from; unit: what each of them is (process, block, batch).
    """

    low_s: float
    high_s: float
    coverage: float
    units: int
    unit: str

    def half_width(self, median_s: float) -> float:
        """Half the interval's width relative to the median; 0.002 means +-0.2 %."""
        return (self.high_s - self.low_s) / 2 / median_s


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a measurement's samples say, over all blocks; times are seconds per call.

    count: samples kept; sample_count: samples taken; relative_stdev: sample standard deviation / mean, None for one
    sample; interval: of the median, None where there are too few samples to say.
    """

    count: int
    sample_count: int
    median_s: float
    p10_s: float
    p90_s: float
    min_s: float
    mean_s: float
    relative_stdev: float | None
    interval: Interval | None
    outliers: int
    processes: int

    @classmethod
    def of(cls, measurement: Measurement) -> Statistics:
        return next(cls.of_all((measurement,)))

    @classmethod
    def of_all(cls, measurements: Iterable[Measurement]) -> Iterator[Statistics]:
        """The statistics of each, in order; of many at once, since a large run is read by thousands of short sorts."""
        remaining = iter(measurements)
        while part := tuple(islice(remaining, TOGETHER)):
            samples = [_array(measurement.blocks) for measurement in part]
            yield from map(cls._of, part, _deciles(samples), _intervals(part, samples))

    @classmethod
    def _of(cls, measurement: Measurement, deciles: Sequence[float], interval: Interval | None) -> Statistics:
        blocks = measurement.blocks
        samples = blocks[0].samples_s if len(blocks) == 1 else measurement.samples_s
        mean = sum(samples) / len(samples)
        return cls(
            count=len(samples),
            sample_count=sum(block.sample_count for block in blocks),
            median_s=deciles[5],
            p10_s=deciles[1],
            p90_s=deciles[9],
            min_s=deciles[0],
            mean_s=mean,
            relative_stdev=relative_stdev(samples, mean),
            interval=interval,
            outliers=len(measurement.outliers),
            processes=len({block.process for block in blocks}),
        )


def _array(blocks: Sequence[Block]) -> numpy.ndarray:
    """The samples of some blocks, in time order."""
    import numpy

    count = sum(len(block.samples_s) for block in blocks)
    return numpy.fromiter(chain.from_iterable(block.samples_s for block in blocks), float, count)


def _sorted(rows: Sequence[numpy.ndarray]) -> Iterator[tuple[list[int], numpy.ndarray]]:
    """(places in `rows`, the rows there, each sorted, as one matrix) for each length that occurs."""
    import numpy

    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(len(row), []).append(place)
    for length, there in places.items():
        matrix = numpy.concatenate([rows[place] for place in there]).reshape(-1, length)
        matrix.sort()
        yield there, matrix


def _deciles(rows: Sequence[numpy.ndarray]) -> list[list[float]]:
    """The eleven deciles of every row, its extremes included, interpolated linearly between order statistics."""
    found: list[list[float]] = [[]] * len(rows)
    for places, ordered in _sorted(rows):
        last = ordered.shape[1] - 1
        columns = [divmod(tenths * last, 10) for tenths in range(11)]
        deciles = [
            ((10 - part) * ordered[:, low] + part * ordered[:, min(low + 1, last)]) / 10 for low, part in columns
        ]
        for place, *values in zip(places, *(column.tolist() for column in deciles)):
            found[place] = values
    return found


def _medians(rows: Sequence[numpy.ndarray]) -> list[float]:
    found = [0.0] * len(rows)
    for places, ordered in _sorted(rows):
        count = ordered.shape[1]
        for place, median in zip(places, ((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2).tolist()):
            found[place] = median
    return found


def relative_stdev(samples: Sequence[float], mean: float) -> float | None:
    """Sample standard deviation over the mean; None for a single sample."""
    if len(samples) < 2:
        return None
    # statistics.stdev computes in exact fractions, which takes a hundred times as long.
    return math.dist(samples, (mean,) * len(samples)) / math.sqrt(len(samples) - 1) / mean


def medians_and_intervals(measurements: Sequence[Measurement]) -> Iterator[tuple[float, Interval | None]]:
    """(the median in seconds, `median_interval`) of each, of many at once."""
    for start in range(0, len(measurements), TOGETHER):
        part = measurements[start : start + TOGETHER]
        samples = [_array(one.blocks) for one in part]
        yield from zip(_medians(samples), _intervals(part, samples))


def median_interval(measurement: Measurement) -> Interval | None:
    """The interval of the median over the largest units that the measurement has.

    Samples taken one after the other are correlated, so the unit is never a single sample: it is the process where
    there are several, else the block where there are enough of them, else a batch of consecutive samples (Schmeiser).
    """
    return _intervals([measurement], [_array(measurement.blocks)])[0]


def _intervals(measurements: Sequence[Measurement], samples: Sequence[numpy.ndarray]) -> list[Interval | None]:
    """The interval of each measurement, whose samples are those of the same place."""
    units = [_units(measurement, row) for measurement, row in zip(measurements, samples)]
    medians = iter(_medians([row for _, rows in units for row in rows]))
    return [interval(list(islice(medians, len(rows))), unit) if rows else None for unit, rows in units]


def _units(measurement: Measurement, samples: numpy.ndarray) -> tuple[str, list[numpy.ndarray]]:
    """What the units of the measurement are called, and the samples of each; none where there are too few."""
    blocks = measurement.blocks
    processes = sorted({block.process for block in blocks})
    if len(processes) > 1:
        return "process", [_array([block for block in blocks if block.process == process]) for process in processes]
    if len(blocks) >= units_needed():
        return "block", [_array([block]) for block in blocks]
    if len(samples) < BATCHES * SAMPLES_PER_BATCH:
        return "batch", []
    return "batch", batches(samples)


def batches(samples: Sliced, count: int = BATCHES) -> list[Sliced]:
    """`count` runs of consecutive samples (count * SAMPLES_PER_BATCH of these at least), as equal as they can be."""
    edges = [index * len(samples) // count for index in range(count + 1)]
    return [samples[a:b] for a, b in pairwise(edges)]


def interval(values: Iterable[float], unit: str) -> Interval:
    """Of independent values (medians of some unit): the narrowest symmetric pair of order statistics with at least
    CONFIDENCE coverage of their median.

    Distribution-free: P(x_(r) <= median <= x_(n+1-r)) = 1 - 2 P(Binomial(n, 1/2) < r); H. David and H. Nagaraja, "Order
    Statistics" (3rd ed.), section 7.1. With fewer values than that takes, their range, with the coverage it has.
    """
    values, count = sorted(values), len(values)
    rank, coverage = _rank(count)
    return Interval(values[rank - 1], values[count - rank], coverage, count, unit)


@cache
def _rank(count: int) -> tuple[int, float]:
    """The largest rank whose pair of order statistics still has CONFIDENCE coverage, or 1; and the coverage it has."""
    rank, coverage = 1, 1 - 2 * 0.5**count
    below = 2 * 0.5**count
    for r in range(2, count // 2 + 1):
        below += 2 * math.comb(count, r - 1) * 0.5**count
        if 1 - below < CONFIDENCE:
            break
        rank, coverage = r, 1 - below
    return rank, coverage


@cache
def units_needed() -> int:
    """The fewest values whose range covers the median with CONFIDENCE: six for 95 %."""
    return next(count for count in range(2, 100) if _rank(count)[1] >= CONFIDENCE)


def speeds(measurement: Measurement) -> tuple[float, ...]:
    """Seconds per call: the median; both medians of one that was flagged for two speeds, whose own is neither."""
    samples = measurement.samples_s
    return (TWO_SPEEDS in measurement.flags and two_speeds(samples)) or (statistics.median(samples),)


def modified_z(samples: Sequence[float]) -> list[float]:
    """The modified Z score of every sample (Iglewicz and Hoaglin): 0.6745 (x - median) / MAD.

    Where more than half the samples are equal the MAD is 0, and the mean absolute deviation takes its place.
    """
    median = statistics.median(samples)
    deviations = [sample - median for sample in samples]
    magnitudes = [abs(deviation) for deviation in deviations]
    spread = statistics.median(magnitudes) / MAD_TO_Z or statistics.fmean(magnitudes) * MEAN_DEVIATION_TO_Z
    return [deviation / spread if spread else 0.0 for deviation in deviations]


def outliers(samples: Sequence[float], limit: float = OUTLIER_Z) -> tuple[int, ...]:
    """The places of the samples whose modified Z score is over the limit, either way; to be flagged, never removed."""
    return tuple(index for index, score in enumerate(modified_z(samples)) if abs(score) > limit)


def two_speeds(samples: Sequence[float]) -> tuple[float, float] | None:
    """The medians of two clusters of samples, low and high, where they have two speeds with nothing between; else None.

    Their common median is then no time that a call ever took, or jumps from one speed to the other. Only the values
    count, in whatever order they came: calls that alternate and a machine that changed once look alike. Of all splits
    of the sorted samples into two clusters of CLUSTER_SHARE and CLUSTER_SAMPLES at least, the one with the widest gap
    for which the gap is CLUSTER_GAP spreads and CLUSTER_STEP of the low edge. A cluster's edges leave out a tenth of it
    at either end, so that stray samples between the two hide nothing; its spread lies between its edges.
    """
    import numpy

    ordered = numpy.sort(numpy.asarray(samples, dtype=float))
    count = len(ordered)
    least = max(CLUSTER_SAMPLES, math.ceil(CLUSTER_SHARE * count))
    below = numpy.arange(least, count - least + 1)  # how many are in the low cluster, for each split
    stray = (least - 1) // 10
    if not len(below) or ordered[count - least + stray] <= (1 + CLUSTER_STEP) * ordered[least - 1 - stray]:
        return None  # most measurements end here: wherever they are split, the edges are near each other
    trimmed, trimmed_high = (below - 1) // 10, (count - below - 1) // 10
    low_edges = ordered[trimmed], ordered[below - 1 - trimmed]
    high_edges = ordered[below + trimmed_high], ordered[count - 1 - trimmed_high]
    gaps = high_edges[0] - low_edges[1]
    spreads = numpy.maximum(low_edges[1] - low_edges[0], high_edges[1] - high_edges[0])
    gaps[(gaps < CLUSTER_GAP * spreads) | (gaps <= CLUSTER_STEP * low_edges[1])] = 0.0
    widest = int(gaps.argmax())
    if not gaps[widest]:
        return None
    split = below[widest]
    return float(numpy.median(ordered[:split])), float(numpy.median(ordered[split:]))
