"""Every class of hazard is reported where it is planted, and sound kernels are left in peace."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from emulator import DELIVERIES, EAGER, LAZY, Emulator, Schedule

from attnbench.hopper.build import build_emulated

SOURCE = Path(__file__).with_name("hazards.cu")
CLUSTER_SOURCE = Path(__file__).with_name("cluster_hazards.cu")
SEEDS = range(6)
# Shown by the values alone in a delivery that executes work at once, or delays it: the deliveries that must report.
ONLY = {
    "load_and_read exiting early": (LAZY,),
    "multiply touching an A fragment in flight": (LAZY,),
}


def loaded(source: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_emulated(source)))
    library.hazard_name.restype = library.hazard_expected.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return loaded(SOURCE)


@pytest.fixture(scope="module")
def clusters() -> ctypes.CDLL:
    return loaded(CLUSTER_SOURCE)


def table(library: ctypes.CDLL) -> list[tuple[str, list[str]]]:
    rows = []
    while name := library.hazard_name(len(rows)):
        rows.append((name.decode(), library.hazard_expected(len(rows)).decode().split()))
    return rows


def outcomes(library: ctypes.CDLL, index: int, delivery: str, stop_at_first: bool = True) -> list[list]:
    emulator = Emulator(library)
    reports = []
    for seed in SEEDS:
        emulator.configure(Schedule(delivery, seed, stop_at_first=stop_at_first, step_limit=20_000))
        status = library.hazard_run(index)
        reports.append(emulator.report())
        assert bool(status) == bool(reports[-1])
    return reports


def missed(library: ctypes.CDLL, delivery: str) -> list[str]:
    """What is not reported although it is planted, or reported although nothing is."""
    failures = []
    for index, (name, expected) in enumerate(table(library)):
        reports = outcomes(library, index, delivery)
        if not expected:
            failures += [f"{name}, seed {seed}: {report[0]}" for seed, report in zip(SEEDS, reports) if report]
        elif delivery in ONLY.get(name, DELIVERIES):
            failures += [
                f"{name}, seed {seed}: {report[0] if report else 'nothing reported'}"
                for seed, report in zip(SEEDS, reports)
                if not report or report[0].kind not in expected
            ]
    return failures


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_every_planted_fault_is_reported(library: ctypes.CDLL, delivery: str) -> None:
    failures = missed(library, delivery)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_every_fault_between_two_ctas_is_reported(clusters: ctypes.CDLL, delivery: str) -> None:
    failures = missed(clusters, delivery)
    assert not failures, "\n".join(failures)


def test_the_tables_cover_every_kind_of_hazard(library: ctypes.CDLL, clusters: ctypes.CDLL) -> None:
    kinds = {kind for one in (library, clusters) for _, expected in table(one) for kind in expected}
    assert kinds == {
        "race", "proxy_fence", "deadlock", "runaway", "mbarrier", "named_barrier", "accumulator", "operand",
        "wgmma_fence", "descriptor", "bulk_group", "in_flight_at_exit", "registers", "divergence", "out_of_bounds",
        "cluster",
    }  # fmt: skip


def report_of(library: ctypes.CDLL, name: str, delivery: str) -> list:
    index = [row[0] for row in table(library)].index(name)
    return outcomes(library, index, delivery, stop_at_first=False)[0]


def test_a_deadlock_report_names_line_barrier_and_stage(library: ctypes.CDLL) -> None:
    (hazard,) = report_of(library, "ring with a missing release", LAZY)
    lines = SOURCE.read_text().splitlines()
    assert hazard.kind == "deadlock"
    assert "wait_empty(empty, at)" in lines[int(hazard.place.split(":")[1]) - 1]
    assert "empty[0] parity 1: in phase 1, 1 of 1 arrivals missing" in hazard.text
    assert "full[0] parity 0" in hazard.text


def test_a_race_report_names_both_lines_and_the_barrier(library: ctypes.CDLL) -> None:
    hazards = report_of(library, "load_and_read without a wait", EAGER)
    lines = SOURCE.read_text().splitlines()
    race = next(hazard for hazard in hazards if hazard.kind == "race")
    places = [race.place, *re.findall(r"hazards\.cu:\d+", race.text)]
    named = {lines[int(place.split(":")[1]) - 1].strip()[:30] for place in places}
    assert named == {"ptx::tma_load_4d(destination, ", "a.out[thread_index()] = float("}
    assert "for full[0]" in race.text


def test_the_same_seed_gives_the_same_run(library: ctypes.CDLL) -> None:
    emulator = Emulator(library)
    seen = {}
    for seed in (1, 2, 1, 2):
        emulator.configure(Schedule("random", seed))
        library.hazard_run([row[0] for row in table(library)].index("ring"))
        statistics = emulator.statistics()
        assert seen.setdefault(seed, statistics) == statistics
    assert seen[1] != seen[2]
