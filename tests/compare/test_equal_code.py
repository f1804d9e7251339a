"""The rules of other tools as benchmarks/equal_code.py reads them: on what these tools print, and on plain numbers."""

import pytest
from fakes.benchmarks import benchmark_module


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_module("equal_code")


def test_rules_that_are_read_from_what_a_tool_prints(benchmark):
    rows = (
        "| Change   | Before [2d8dd5f7] <main~1>   | After [6ba57e88] <main>   |   Ratio | Benchmark (Parameter)   |\n"
    )
    assert not benchmark.asv_slower(rows + "|          | 23.9±8ms | 24.2±2ms | 1.01 | b.Suite.time_job |")
    assert benchmark.asv_slower(rows + "| +        | 23.9±0.1ms | 28.2±0.2ms | 1.18 | b.Suite.time_job |")
    assert not benchmark.asv_slower(rows + "| -        | 23.9±0.1ms | 18.2±0.2ms | 0.76 | b.Suite.time_job |")
    assert not benchmark.pyperf_slower("Benchmark hidden because not significant (1): job")
    assert benchmark.pyperf_slower("Mean +- std dev: [a] 16.8 ms +- 2.2 ms -> [b] 19.0 ms +- 1.0 ms: 1.13x slower")
    assert not benchmark.pyperf_slower("Mean +- std dev: [a] 19.0 ms +- 1.0 ms -> [b] 16.8 ms +- 2.2 ms: 1.13x faster")


def test_rules_on_samples(benchmark):
    steady, wide = (0.99, 1.0, 1.01), (0.5, 1.05, 1.6)
    assert not benchmark.intervals_apart(steady, wide) and benchmark.intervals_apart(steady, (1.1, 1.11, 1.12))
    assert not benchmark.intervals_apart((1.1, 1.11, 1.12), steady)
    assert benchmark.nvbench_slower(steady, wide), "the smaller of both noises decides"
    assert not benchmark.nvbench_slower(wide, steady) and not benchmark.nvbench_slower(steady, (0.995, 1.005, 1.015))


def test_the_table_has_a_row_a_tool_with_its_rule(benchmark):
    rows = list(benchmark.table({"asv": [True, False], "attnbench": [False, False]}, {"attnbench": [True, True]}))
    assert rows[2] == "| asv | `compare --factor 1.1` | 1 of 2 |  |"
    assert rows[3].startswith("| attnbench |") and rows[3].endswith("| 0 of 2 | 2 of 2 |")
    assert set(benchmark.RULES) == {*benchmark.TOOLS, "nvbench's rule"}
