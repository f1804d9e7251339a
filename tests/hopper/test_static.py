"""The real kernels, compiled: every limit holds, and the figures are those of kernels/static.json.

The three libraries that compile in seconds always; all eight, minutes of compilation, by `make test-full`. That nobody
changed a kernel without `attnbench kernels inspect --update`, which refuses what breaks a limit, is test_loads.py's.
"""

from __future__ import annotations

import itertools

import pytest

from attnbench.hopper import schedules
from attnbench.hopper.build import kernel_sources, library_path, read_build
from attnbench.hopper.inspect import inspect_all, inspect_build, violations
from attnbench.hopper.recorded import compare_recorded, read_recorded
from attnbench.hopper.toolchain import PINNED_NVCC
from tests.compile_ahead import FOR_HOPPER

EVERY = tuple(source.stem for source in kernel_sources())


@pytest.fixture(scope="module", params=[FOR_HOPPER, pytest.param(EVERY, marks=pytest.mark.full)], ids=len)
def libraries(request):
    return request.param


@pytest.fixture(scope="module")
def facts(nvcc, disassembler, libraries):
    if nvcc.version != PINNED_NVCC:
        pytest.skip(f"not run: limits and figures are those of nvcc {PINNED_NVCC}, here is {nvcc.version}")
    return inspect_all(libraries)


def test_every_kernel_file_was_inspected(facts, libraries):
    assert {one.library for one in facts} == set(libraries)
    assert all(one.sass is not None for one in facts)
    assert all(bool(one.sass.loops) == (one.library != "quantize") for one in facts)
    assert len({one.key for one in facts}) == len(facts)
    assert len({one.variant.kernel for one in facts}) == len(facts), "two rows of the tables name one kernel"


def test_limits_hold(facts):
    assert [str(violation) for violation in violations(facts)] == []


def test_figures_are_the_recorded_ones(facts):
    changed = compare_recorded(facts, read_recorded())
    assert not changed, "\n".join([*changed, "if this is meant: attnbench kernels inspect --update"])


def test_the_record_has_the_variants_of_every_schedule(facts, libraries):
    """Schedules as the fixed table names them, each in its file; the kernel to read first and the default one answer
    both 16-bit types, every head_dim and both masks."""
    recorded = {tuple(key.split("/")) for key in read_recorded()["variants"]}
    named = {(file, schedule) for schedule, file in schedules.FILES.items()}
    built = {(one.library, one.variant.schedule) for one in facts if one.library.startswith("fwd_")}
    assert built == {row for row in named if row[0] in libraries}
    for schedule in ("overlap", "simple"):
        for dtype, head_dim, mask in itertools.product(("fp16", "bf16"), (64, 128, 256), ("full", "causal")):
            assert (f"fwd_{schedule}", f"{schedule}-{dtype}-d{head_dim}-{mask}") in recorded


def test_one_kernel_alone_reads_the_same(facts):
    """What a record carries is read from that kernel alone, and says what the whole inspection says."""
    one = next(one for one in facts if one.library == "fwd_simple")
    library = library_path(one.library)
    assert inspect_build(read_build(library), library, one.variant) == [one]
