"""The emulated primitives are the real ones' twins: the same headers, functions, parameters and constants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnbench.hopper.toolchain import KERNELS

REAL = KERNELS / "include" / "attnbench"
EMULATED = KERNELS / "emulation" / "include" / "attnbench"
# Only the real wgmma needs a body for each shape.
DEVICE_ONLY = {"wgmma_shapes.cuh"}
HEADERS = sorted(path.name for path in (REAL / "ptx").glob("*.cuh") if path.name not in DEVICE_ONLY)

FUNCTION = re.compile(r"ATTNBENCH_DEVICE\s+(\w+)\s+(\w+)\(([^)]*)\)")
CONSTANT = re.compile(r"constexpr \w+ ([A-Z_0-9]+) = ([^;]+);")


def functions(path: Path) -> dict[str, tuple[str, ...]]:
    """Name -> types of result and parameters; names of parameters, defaults and an extra Where left out."""
    found = {}
    for result, name, parameters in FUNCTION.findall(path.read_text()):
        types = [re.sub(r"\s*=.*", "", part.strip()) for part in parameters.split(",") if part.strip()]
        types = [re.sub(r"\s*\b(?!Where\b|TensorMap\b|T\b)[a-z]\w*(?=\)|$)", "", t) if " " in t else t for t in types]
        found[name] = (result, *(t for t in types if not t.startswith("Where")))
    return found


def test_both_layers_have_the_same_headers() -> None:
    emulated = sorted(path.name for path in (EMULATED / "ptx").glob("*.cuh"))
    assert emulated == HEADERS


@pytest.mark.parametrize("header", HEADERS)
def test_both_layers_have_the_same_functions(header: str) -> None:
    real, emulated = functions(REAL / "ptx" / header), functions(EMULATED / "ptx" / header)
    assert real
    missing = set(real) - set(emulated)
    assert not missing, f"not emulated: {sorted(missing)}"
    different = {name: (real[name], emulated[name]) for name in real if real[name] != emulated[name]}
    assert not different


@pytest.mark.parametrize("header", HEADERS)
def test_both_layers_have_the_same_constants(header: str) -> None:
    real, emulated = (dict(CONSTANT.findall((root / "ptx" / header).read_text())) for root in (REAL, EMULATED))
    assert real == emulated


def test_only_the_primitives_exist_twice() -> None:
    twice = {path.name for path in REAL.glob("*.*h") if (EMULATED / path.name).exists()}
    assert twice == {"device.cuh", "host.h"}
