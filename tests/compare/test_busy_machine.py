"""benchmarks/busy_machine.py counts what it says, on made runs; the real ones take a quiet machine, and minutes."""

import os
import random
from dataclasses import replace

import pytest
from fakes.benchmarks import benchmark_module
from fakes.processes import children
from fakes.report_runs import LAPTOP, measurement, ok
from paths import ROOT

from attnbench.compare.verdict import INCONCLUSIVE, SAME, SLOWER
from attnbench.records.measurement import Block
from attnbench.records.store import Run


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_module("busy_machine")


def made(name, dice, disturbed=False):
    """Two cases of about 1 ms; of a disturbed run every third call takes six to sixty times as long."""
    records = []
    for seqlen in (64, 128):
        level = 1e-3 * (1 + dice.gauss(0, 0.005)) * (dice.choice((1, 1.5)) if disturbed else 1)
        slow = [dice.uniform(6, 60) if disturbed and dice.random() < 0.3 else 1 for _ in range(90)]
        samples = tuple(level * (1 + abs(dice.gauss(0, 0.01))) * factor for factor in slow)
        timing = {"timer": "cpu", "blocks": (Block(samples, 90, start_s=dice.random()),)}
        records.append(replace(ok("naive", None, seqlen=seqlen), measurement=measurement(1e-3, **timing)))
    return Run(ROOT / name, name, {**LAPTOP, "device": "cpu", "machine": "m"}, "", tuple(records))


def test_gates_are_counted(benchmark):
    dice = random.Random(4)
    quiet = [made(f"q{place}", dice) for place in range(7)]
    busy = [made(f"b{place}", dice, disturbed=True) for place in range(7)]
    equal = benchmark.gates(quiet, quiet, 20, 5, 0.05, 1.0)
    assert equal.regressed == 0 and equal.kinds[SAME] >= 36 and sum(equal.kinds.values()) == 40
    slower = benchmark.gates(quiet, quiet, 20, 5, 0.05, 1.1)
    assert slower.regressed == 1 and slower.kinds[SLOWER] >= 36
    for base, new in ((busy, busy), (quiet, busy)):
        assert benchmark.gates(base, new, 20, 3, 0.01, 1.0) == benchmark.Drawn(0.0, {INCONCLUSIVE: 40})


def test_a_made_load_ends_with_its_block(benchmark):
    before = set(children(os.getpid()))
    with benchmark.made_load(0, 2):
        assert len(set(children(os.getpid())) - before) == 2
    assert set(children(os.getpid())) == before


def test_longer_is_longer_by_as_much(benchmark):
    run = made("x", random.Random(0))
    twice = benchmark.longer(run, 2.0)
    for one, other in zip(run.records, twice.records):
        assert other.measurement.samples_s == tuple(2 * sample for sample in one.measurement.samples_s)
