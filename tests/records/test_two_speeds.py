"""Two clusters of samples: by brute force, in any order, on smooth noise, and on the committed runs."""

import math
import random
import statistics

import numpy
import pytest
from paths import ROOT

from attnbench.records import store
from attnbench.records.stats import CLUSTER_GAP, CLUSTER_SAMPLES, CLUSTER_SHARE, CLUSTER_STEP, two_speeds


def brute_force(samples):
    """Every split, its edges by dropping samples one by one."""
    best, found = 0.0, None
    ordered = sorted(samples)
    for split in range(1, len(ordered)):
        low, high = ordered[:split], ordered[split:]
        if min(len(low), len(high)) < max(CLUSTER_SAMPLES, math.ceil(CLUSTER_SHARE * len(ordered))):
            continue
        inner = [cluster[(len(cluster) - 1) // 10 : len(cluster) - (len(cluster) - 1) // 10] for cluster in (low, high)]
        gap = inner[1][0] - inner[0][-1]
        wide = gap >= CLUSTER_GAP * max(one[-1] - one[0] for one in inner) and gap > CLUSTER_STEP * inner[0][-1]
        if wide and gap > best:
            best, found = gap, (statistics.median(low), statistics.median(high))
    return found


def drawn(dice, count):
    """Sometimes one speed, sometimes two or three, with tails and strays."""
    levels = [dice.choice((1.0, 1.02, 1.1, 1.5, 2.0)) for _ in range(dice.choice((1, 2, 2, 3)))]
    spread = dice.choice((0.001, 0.01, 0.1))
    return [dice.choice(levels) * (1 + spread * dice.expovariate(1)) for _ in range(count)]


def test_two_speeds_by_brute_force():
    dice = random.Random(1)
    told = 0
    for _ in range(400):
        samples = drawn(dice, dice.choice((1, 19, 20, 21, 35, 60, 130)))
        expected = brute_force(samples)
        assert two_speeds(samples) == (None if expected is None else pytest.approx(expected))
        told += expected is not None
    assert 50 < told < 350  # both outcomes were met often


@pytest.mark.parametrize("order", ["alternating", "one after the other", "shuffled"])
def test_the_order_of_samples_is_nothing(order):
    samples = [0.004, 0.008] * 32
    if order == "one after the other":
        samples.sort()
    elif order == "shuffled":
        random.Random(0).shuffle(samples)
    assert two_speeds(samples) == (0.004, 0.008)


def test_each_cluster_is_well_populated():
    assert two_speeds([1.0] * 40 + [2.0] * 10) == (1.0, 2.0)
    assert two_speeds([1.0] * 41 + [2.0] * 9) is None, "fewer than CLUSTER_SAMPLES"
    assert two_speeds([1.0] * 400 + [2.0] * 80) is None, "fewer than CLUSTER_SHARE: a tail"
    assert two_speeds([1.0] * 9 + [2.0] * 9) is None
    assert two_speeds([]) is None


def test_stray_samples_between_the_two_hide_nothing():
    strays = [0.0045 + 0.0001 * place for place in range(6)]
    assert two_speeds([0.004] * 60 + strays + [0.008] * 60) == pytest.approx((0.004, 0.008))


def test_neighbouring_ticks_of_a_timer_are_one_speed():
    assert two_speeds([100.0, 101.0] * 50) is None
    assert two_speeds([100.0, 105.0] * 50) == (100.0, 105.0)


@pytest.mark.parametrize("noise", ["normal", "uniform", "exponential", "lognormal", "heavy tails", "ramp"])
def test_smooth_noise_has_one_speed(noise):
    dice = numpy.random.default_rng(2)
    draw = {
        "normal": lambda count: 100 + dice.normal(size=count),
        "uniform": lambda count: 1 + dice.random(count),
        "exponential": lambda count: 1 + dice.exponential(size=count),
        "lognormal": lambda count: dice.lognormal(size=count),
        "heavy tails": lambda count: 100 + dice.standard_t(2, size=count),
        "ramp": lambda count: numpy.linspace(1, 2, count),
    }[noise]
    assert not any(two_speeds(draw(count)) for count in (20, 30, 60, 512) for _ in range(500))


def test_committed_runs_are_accused_of_what_they_show_only():
    """Both records of 2026-11-21 jump between two levels in time (another tenant of the machine)."""
    runs = [store.read(path.parent) for path in sorted((ROOT / "results").glob("*/records.jsonl"))]
    timed = {(run.name, record.case_key, record.backend): record.measurement.samples_s
             for run in runs for record in run.records if record.measurement}  # fmt: skip
    told = {name: found for name, samples in timed.items() if (found := two_speeds(samples))}
    jumps = {
        ("2026-11-21-quick-cpu", "bf16-d128-h4-b1-q512-k512-causal-normal.0", "naive"): (10.9, 18.7),
        ("2026-11-21-quick-cpu", "bf16-d128-h4.1-b1-q1024-k1024-causal-normal.0", "cpu_flash"): (13.8, 17.0),
    }
    in_ms = {name: tuple(round(1e3 * speed, 1) for speed in pair) for name, pair in told.items()}
    assert {name: pair for name, pair in in_ms.items() if name[0] == "2026-11-21-quick-cpu"} == jumps
    assert len(timed) > 100 and len(told) <= len(timed) / 50
