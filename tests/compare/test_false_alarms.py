"""How often verdicts are wrong over simulated suites: a short form of benchmarks/false_alarms.py, which runs 500."""

import importlib.util
import math

import numpy
import pytest
from fakes.simulated_noise import Noise
from paths import ROOT

SUITES = 15


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("false_alarms", ROOT / "benchmarks" / "false_alarms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_code_in_turns_is_not_called_slower(simulation):
    dice = numpy.random.default_rng(11)
    assert [final for _, final in (simulation.ab(dice, Noise()) for _ in range(SUITES)) if final] == []


def test_equal_code_passes_the_gate(simulation):
    dice = numpy.random.default_rng(12)
    assert sum(simulation.gate(dice, Noise(), runs=3)[0] for _ in range(SUITES)) == 0


def test_three_percent_on_one_case_of_forty_is_found(simulation):
    dice, effects = numpy.random.default_rng(13), {simulation.CHANGED: math.log1p(0.03)}
    found = [simulation.ab(dice, Noise(), effects)[1] for _ in range(SUITES)]
    assert sum(final == {simulation.CHANGED} for final in found) >= 0.9 * SUITES


def test_the_simulation_is_noisy_enough_to_fool_a_test_of_calls(simulation):
    """Welch's t on the calls of two arms, one after the other: most of equal suites would be called different."""
    from scipy.stats import ttest_ind

    dice, fooled = numpy.random.default_rng(14), 0
    for _ in range(SUITES):
        sides = [simulation.side(dice, name, 1, 1, simulation.UNCLOCKED, samples=300) for name in ("a", "b")]
        first, second = (side.runs[0].records[0].measurement.samples_s for side in sides)
        fooled += ttest_ind(numpy.log(first), numpy.log(second), equal_var=False).pvalue < 0.05
    assert fooled >= SUITES / 2


def test_the_spread_of_a_process_is_what_the_limits_speak_of(simulation):
    """0.3 % between processes in the difference of two arms, within a tenth."""
    from fakes.simulated_noise import turns

    from attnbench.compare.differences import process_differences

    dice, spreads = numpy.random.default_rng(15), []
    for _ in range(6):
        for base, new in turns(dice, range(40), 40, Noise()).values():
            spreads.append(numpy.var(list(process_differences(base.blocks, new.blocks).values()), ddof=1))
    assert math.sqrt(numpy.median(spreads) / 0.839) == pytest.approx(0.003, rel=0.15)  # median of chi2(4)/4 is 0.839
