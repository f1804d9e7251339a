"""kernels/loads.json: of the sources that are here, every main schedule in it, and what the machine code says."""

from __future__ import annotations

import json

import pytest

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.hopper import loads
from attnbench.hopper.build import is_stale, kernel_sources, library_path, read_build
from attnbench.hopper.toolchain import PINNED_NVCC
from attnbench.machine_code.pipes import PIPES

LIBRARIES = [source.stem for source in kernel_sources() if source.stem.startswith("fwd_")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_recorded_loads_are_those_of_the_sources_here(library):
    """Where this fails: attnbench kernels inspect --update."""
    assert loads.is_fresh(library)


def test_every_variant_with_a_main_loop_is_told():
    recorded = json.loads(loads.LOADS.read_text())
    assert sorted(recorded) == LIBRARIES
    for entry in recorded.values():
        assert entry["compiler"] == f"nvcc {PINNED_NVCC}" and entry["variants"]
        for row in entry["variants"].values():
            assert set(row) == {"keys", "chain", "limit", *PIPES} and row["limit"]
            assert row["tensor"] > 0 and row["issue"] > 0 and row["chain"] > 0


def test_what_is_not_recorded_or_older_than_its_source_is_not_told(monkeypatch):
    key = "overlap-bf16-d128-causal"
    told = loads.recorded_loads("fwd_overlap", key)
    assert told["compiler"] == f"nvcc {PINNED_NVCC}" and told["tensor"] == pytest.approx(2048)
    assert loads.recorded_loads("fwd_overlap", "no_such_variant") is None
    assert loads.recorded_loads("no_such_library", key) is None
    monkeypatch.setattr(loads, "source_digest", lambda sources, folders: "another")
    assert loads.recorded_loads("fwd_overlap", key) is None


def test_the_machine_code_says_the_same():
    build = read_build(library_path("fwd_simple"))
    if build is None or is_stale(build) or build.compiler != f"nvcc {PINNED_NVCC}":
        pytest.skip("not run: no library of fwd_simple by the pinned nvcc")
    recorded = json.loads(loads.LOADS.read_text())
    assert loads.measured_loads([build]) == {"fwd_simple": recorded["fwd_simple"]}


def test_a_record_tells_them():
    case = Case.make(batch=1, num_heads=1, head_dim=64, seqlen=64, dtype="bf16", causal=True)
    told = builtin()["hopper_emulated[simple]"].kernel_facts(case)["loads"]
    assert told == loads.recorded_loads("fwd_simple", "simple-bf16-d64-causal")
