"""Estimators against numpy and brute force; intervals against the coverage that they claim."""

import itertools

import numpy
import pytest
from fakes.report_runs import measurement

from attnbench.records.measurement import Block, Measurement
from attnbench.records.stats import Statistics, median_interval, modified_z, outliers


def made(*blocks: Block) -> Measurement:
    return Measurement(blocks, "cpu", "sustained", "cold", 1, True)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 31, 512])
def test_statistics_are_numpys(count):
    samples = numpy.random.default_rng(count).lognormal(size=count)
    found = Statistics.of(made(Block(tuple(samples.tolist()), 10 * count)))
    expected = numpy.percentile(samples, (10, 50, 90))
    assert (found.p10_s, found.median_s, found.p90_s) == pytest.approx(tuple(expected))
    assert (found.mean_s, found.min_s) == pytest.approx((samples.mean(), samples.min()))
    assert (found.count, found.sample_count) == (count, 10 * count)
    if count == 1:
        assert found.relative_stdev is None
    else:
        assert found.relative_stdev == pytest.approx(samples.std(ddof=1) / samples.mean())


def test_coverage_of_order_statistics_by_brute_force():
    """Ten fair coins: how often do the median's neighbours of rank 2 and 9 enclose it?"""
    blocks = [Block((float(value),), 1) for value in range(1, 11)]
    interval = median_interval(made(*blocks))
    assert (interval.low_s, interval.high_s, interval.units, interval.unit) == (2.0, 9.0, 10, "block")
    inside = sum(2 <= sum(below) <= 8 for below in itertools.product((0, 1), repeat=10))
    assert interval.coverage == pytest.approx(inside / 2**10)


def test_processes_are_the_unit_where_there_are_several():
    blocks = [Block((value, value + 0.1, value + 0.2), 3, process=index) for index, value in enumerate((3.0, 1.0, 2.0))]
    interval = median_interval(made(*blocks, Block((1.0, 1.2), 2, process=1)))
    assert (interval.unit, interval.units, interval.low_s, interval.high_s) == ("process", 3, 1.1, 3.1)
    assert interval.coverage == pytest.approx(0.75)  # three values cannot give 95 %, and it says so


def test_too_few_samples_give_no_interval():
    assert median_interval(made(Block((1.0,) * 29, 29))) is None
    assert median_interval(measurement(1.0)).unit == "batch"


def test_half_width_is_relative_to_the_median():
    interval = median_interval(made(*(Block((float(value),), 1) for value in range(1, 11))))
    assert interval.half_width(5.5) == pytest.approx(3.5 / 5.5)


def test_interval_covers_the_median_of_correlated_samples():
    """AR(1) noise with correlation 0.8: an interval from single samples covers the median in about half the cases."""
    generator = numpy.random.default_rng(0)
    trials, count, hits, naive_hits = 300, 500, 0, 0
    noise = generator.normal(size=(trials, count))
    series = numpy.zeros((trials, count))
    for step in range(1, count):
        series[:, step] = 0.8 * series[:, step - 1] + noise[:, step]
    for row in 100 + series:
        interval = median_interval(made(Block(tuple(row.tolist()), count)))
        hits += interval.low_s <= 100 <= interval.high_s
        low, high = numpy.sort(row)[[count // 2 - 23, count // 2 + 22]]  # 95 % if the samples were independent
        naive_hits += low <= 100 <= high
    assert hits / trials >= 0.92
    assert naive_hits / trials <= 0.75


def test_modified_z_by_its_definition():
    samples = [1.0, 2.0, 3.0, 4.0, 100.0]
    median, mad = 3.0, 1.0
    assert modified_z(samples) == pytest.approx([0.6745 * (value - median) / mad for value in samples])
    assert outliers(samples) == (4,)
    assert outliers([1.0, 2.0, 3.0, 4.0, 5.0]) == ()


def test_modified_z_where_most_samples_are_equal():
    assert outliers([1.0] * 50) == ()
    assert outliers([1.0] * 50 + [2.0]) == (50,)
    assert outliers([1.0]) == ()
