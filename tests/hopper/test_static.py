"""The real kernels, compiled: every limit holds, and the figures are those of kernels/static.json."""

from __future__ import annotations

import pytest

from attnbench.hopper.build import kernel_sources, library_path, read_build
from attnbench.hopper.inspect import inspect_all, inspect_build, violations
from attnbench.hopper.recorded import compare_recorded, read_recorded
from attnbench.hopper.toolchain import PINNED_NVCC


@pytest.fixture(scope="module")
def facts(nvcc, disassembler):
    if nvcc.version != PINNED_NVCC:
        pytest.skip(f"not run: limits and figures are those of nvcc {PINNED_NVCC}, here is {nvcc.version}")
    return inspect_all()


def test_every_kernel_file_was_inspected(facts):
    assert {one.library for one in facts} == {source.stem for source in kernel_sources()}
    assert all(one.sass is not None for one in facts)
    assert all(bool(one.sass.loops) == (one.library != "quantize") for one in facts)
    assert len({one.key for one in facts}) == len(facts)
    assert len({one.variant.kernel for one in facts}) == len(facts), "two rows of the tables name one kernel"


def test_limits_hold(facts):
    assert [str(violation) for violation in violations(facts)] == []


def test_figures_are_the_recorded_ones(facts):
    changed = compare_recorded(facts, read_recorded())
    assert not changed, "\n".join([*changed, "if this is meant: attnbench kernels inspect --update"])


def test_the_common_cases_are_covered(facts):
    """The kernel to read first and the default one answer both 16-bit types, every head_dim and both masks."""
    rows = {(one.variant.schedule, one.variant.dtype, one.variant.head_dim, one.variant.causal) for one in facts}
    for dtype in ("fp16", "bf16"):
        for head_dim in (64, 128, 256):
            for causal in (False, True):
                assert {("overlap", dtype, head_dim, causal), ("simple", dtype, head_dim, causal)} <= rows


def test_one_kernel_alone_reads_the_same(facts):
    """What a record carries is read from that kernel alone, and says what the whole inspection says."""
    one = next(one for one in facts if one.library == "fwd_simple")
    library = library_path(one.library)
    assert inspect_build(read_build(library), library, one.variant) == [one]
