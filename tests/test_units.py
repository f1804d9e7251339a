"""Numbers as text: digits, units and the edges where a rounding changes them."""

import pytest

from attnbench import units


@pytest.mark.parametrize("time_s, shown", [
    (1e-9, "0.001000 us"), (12.3456e-6, "12.35 us"), (999.94e-6, "999.9 us"), (999.96e-6, "1.000 ms"),
    (0.99994, "999.9 ms"), (0.99996, "1.000 s"), (75.0, "75.00 s"), (0.0, "0 us"),
])  # fmt: skip
def test_times(time_s, shown):
    assert units.show_time(time_s) == shown


@pytest.mark.parametrize("value, digits, shown", [
    (652.4, 3, "652"), (9.996, 3, "10.0"), (0.03456, 3, "0.0346"), (1234.5, 3, "1234"), (-2.0, 2, "-2.0"),
    (1e-7, 3, "1.00e-07"), (2e6, 2, "2.0e+06"), (0.0, 3, "0"), (float("inf"), 3, "inf"), (float("nan"), 3, "nan"),
])  # fmt: skip
def test_significant_digits(value, digits, shown):
    assert units.significant(value, digits) == shown


@pytest.mark.parametrize("value, unit, shown", [
    (None, units.SECONDS, "—"), (1e-3, units.SECONDS, "1.000 ms"), (651.7, units.TFLOPS, "652 TFLOPS"),
    (3.2e12, units.BYTES_PER_S, "3200 GB/s"), (66.04, units.PERCENT, "66.0 %"), (1.2345, units.RATIO, "1.23x"),
    (0.00123, units.ERROR, "1.2e-03"), (float("inf"), units.ERROR, "inf"),
    (1023, units.BYTES, "1023 B"), (3 * 2**20, units.BYTES, "3.00 MiB"), (5 * 2**40, units.BYTES, "5120 GiB"),
])  # fmt: skip
def test_show_by_unit(value, unit, shown):
    assert units.show(value, unit) == shown


@pytest.mark.parametrize("count, shown", [(512, "512"), (1024, "1k"), (1000, "1000"), (16384, "16k"), (1536, "1536")])
def test_lengths(count, shown):
    assert units.lengths(count) == shown


@pytest.mark.parametrize("rates, unit, shown", [
    ((0.0999e12,), "GFLOPS", "99.9"), ((0.1e12,), "TFLOPS", "0.100"), ((652e12, 1e9, 600e12), "TFLOPS", "652"),
    ((120e9, 40e9, 60e9), "GFLOPS", "120"), ((), "TFLOPS", None),
])  # fmt: skip
def test_a_table_has_the_unit_that_suits_most_of_its_rates(rates, unit, shown):
    found = units.rate_unit(*rates)
    assert found.name == unit and (shown is None or found.show(rates[0]) == shown)


def test_a_rate_by_itself_has_the_unit_that_suits_it():
    assert units.show_rate(79.63e9, 4) == "79.63 GFLOPS" and units.show_rate(702e12, 4) == "702.0 TFLOPS"
    assert units.show(0.0796, units.TFLOPS) == "79.6 GFLOPS"
