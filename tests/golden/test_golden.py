"""Fidelity of the emulation, primitive by primitive: against formulas written apart, and against recorded hardware.

The test marked `gpu` records tests/golden/hopper.npz on a Hopper machine. Until that file exists nothing here says
anything about hardware, and the comparison reports itself as not run.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import probes
import pytest
import record
import torch

from attnbench.hopper.build import build_emulated, compile_library
from attnbench.hopper.toolchain import hopper_recipe
from attnbench.reference.fp8 import matmul_into

SOURCE = Path(__file__).parent / "probes.cu"
VECTORS = Path(__file__).with_name("hopper.npz")
TRUNCATED = "ss_e4m3_sums"


class _Config(ctypes.Structure):
    """AttnbenchEmulationConfig of attnbench/emulation.h."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32), ("delivery", ctypes.c_int32), ("seed", ctypes.c_uint64),
        ("multiprocessors", ctypes.c_int32), ("resident_ctas", ctypes.c_int32), ("accumulator", ctypes.c_int32),
        ("stop_at_first", ctypes.c_int32), ("mutation", ctypes.c_int32), ("mutation_site", ctypes.c_int32),
        ("step_limit", ctypes.c_uint64), ("checks", ctypes.c_int32), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def emulated() -> ctypes.CDLL:
    return ctypes.CDLL(str(build_emulated(SOURCE)))


def emulate(library: ctypes.CDLL, name: str, delivery: int = 0) -> np.ndarray:
    config = _Config(ctypes.sizeof(_Config), delivery, 1, 2, 1, int(name == TRUNCATED), 1)
    assert library.attnbench_emulation_configure(ctypes.byref(config)) == 0
    return probes.run(library, probes.make_probe(name), "cpu")


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Without the processor's own instructions and fiber switch: what another platform would run."""
    flags = ("-O1", "-march=x86-64", "-DATTNBENCH_FIBER_UCONTEXT=1") if platform.machine() == "x86_64" else ()
    return ctypes.CDLL(str(build_emulated(SOURCE, flags=flags, build_dir=tmp_path_factory.mktemp("portable"))))


@pytest.mark.parametrize("delivery", (0, 1, 2), ids=("lazy", "eager", "random"))
def test_emulation_follows_the_formulas(emulated: ctypes.CDLL, delivery: int) -> None:
    check_formulas(emulated, delivery)


def test_the_portable_build_follows_the_formulas(portable: ctypes.CDLL) -> None:
    check_formulas(portable, 0)


def check_formulas(emulated: ctypes.CDLL, delivery: int) -> None:
    names = probes.names(emulated)
    assert len(names) > 15
    failures = []
    for name in names:
        expected = probes.make_probe(name).expected
        assert np.unique(expected).size > 20, f"{name} tells nothing apart"
        failures.append(probes.difference(name, emulate(emulated, name, delivery), expected))
    assert not any(failures), "\n".join(filter(None, failures))


def test_truncated_sums_are_bit_exact_and_differ_from_fp32(emulated: ctypes.CDLL) -> None:
    probe = probes.make_probe(TRUNCATED)
    truncated = emulate(emulated, TRUNCATED)
    assert np.array_equal(truncated, probe.expected)
    config = _Config(ctypes.sizeof(_Config), 0, 1, 2, 1, 0, 1)
    assert emulated.attnbench_emulation_configure(ctypes.byref(config)) == 0
    exact = probes.run(emulated, probe, "cpu")
    error = np.abs(exact - truncated).max() / np.abs(exact).max()
    assert 0 < error < 2**-7


def test_the_lab_predicts_with_the_same_sums() -> None:
    """attnbench.reference.fp8, which E1 of a kernel is held against, and what the emulation is held against above."""
    generator = np.random.default_rng(3)
    stored = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    stored = stored[np.isfinite(stored)]
    a, b = generator.choice(stored, (48, 160)), generator.choice(stored, (160, 24))
    for left, right in ((a, b), (a / 448, b / 448), (np.abs(a), np.abs(b)), (a * 0, b)):
        zero = torch.zeros(48, 24)
        sums = matmul_into(zero, torch.from_numpy(left), torch.from_numpy(right), "hopper")
        assert np.array_equal(sums.numpy(), probes.truncated_product(left, right))


def test_a_wrong_map_would_be_seen() -> None:
    probe = probes.make_probe("ss_fp16_n64")
    assert probes.difference(probe.name, probe.expected.copy(), probe.expected) == ""
    swapped = probe.expected.copy()
    swapped[:, [1, 2]] = swapped[:, [2, 1]]
    assert "differ" in probes.difference(probe.name, swapped, probe.expected)


def test_emulation_reproduces_recorded_hardware(emulated: ctypes.CDLL) -> None:
    if not VECTORS.exists():
        pytest.skip("not run: no golden vectors yet (tests/golden/hopper.npz is recorded by the gpu test on Hopper)")
    recorded = np.load(VECTORS)
    names = probes.names(emulated)
    missing = sorted(set(names) - set(recorded.files))
    assert not missing, f"record the vectors again: there is none of {', '.join(missing)}"
    failures = [probes.difference(name, emulate(emulated, name), recorded[name]) for name in names]
    assert not any(failures), "\n".join(filter(None, failures))


@pytest.mark.gpu
def test_record_hardware(tmp_path: Path) -> None:
    """Runs every probe on the GPU, writes hopper.npz, and holds the hardware against the formulas."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not run: no Hopper GPU")
    recipe = hopper_recipe(SOURCE)
    compile_library(recipe)
    names = probes.names(ctypes.CDLL(str(recipe.library)))
    lost = record.run_all(names, record.child(recipe.library, tmp_path), tmp_path)
    results = record.collected(tmp_path)
    if results:
        np.savez_compressed(VECTORS, **results)
    failures = [f"{name}: {reason}" for name, reason in lost.items()]
    failures += [probes.difference(name, found, probes.make_probe(name).expected) for name, found in results.items()]
    assert not any(failures), "\n".join(filter(None, failures))


# Writes a vector for each name, but for one that ends the process and one at which it hangs.
CHILD = """
import pathlib, sys, time
for name in sys.argv[2:]:
    if name == "faults": sys.exit(7)
    if name == "hangs": time.sleep(60)
    pathlib.Path(sys.argv[1], name + ".npy").write_bytes(b"")
"""


def test_a_probe_that_faults_or_hangs_costs_no_other_its_vector(tmp_path: Path) -> None:
    names = ("first", "faults", "second", "hangs", "third")
    lost = record.run_all(
        names, lambda wanted: subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), *wanted]), tmp_path, 1.0
    )
    assert lost == {"faults": "exit status 7", "hangs": "no answer for 1 s"}
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == ["first", "second", "third"]


def test_a_machine_that_answers_nothing_is_left_alone(tmp_path: Path) -> None:
    names = [f"probe {number}" for number in range(record.MOST_LOST + 2)]
    starts = []

    def start(wanted):
        starts.append(wanted)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])

    lost = record.run_all(names, start, tmp_path)
    assert len(starts) == record.MOST_LOST and set(lost) == set(names)
    assert lost[names[-1]] == "not run, too many others were lost"
