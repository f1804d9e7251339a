"""The maps of kernels/include/attnbench (swizzle, descriptors, fragments, masks, tile order), by enumeration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from paths import ROOT

INCLUDES = (ROOT / "kernels" / "emulation" / "include", ROOT / "kernels" / "include")
SECTIONS = (
    "swizzle", "tiles", "k_major", "mn_major", "descriptor_fields", "fragments", "fragments_8bit", "stmatrix", "masks",
    "masked_scores", "polynomials", "orders",
)  # fmt: skip
PLANTED = ("k_major_planted", "mn_major_planted")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("layout") / "test_layout"
    includes = [f"-I{folder}" for folder in INCLUDES]
    source = Path(__file__).with_name("test_layout.cpp")
    command = ["g++", "-std=c++17", "-O1", "-Wall", *includes, str(source), "-o", str(binary)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return binary


def compare(program: Path, section: str) -> tuple[int, int]:
    """Comparisons made and mismatches found."""
    printed = subprocess.run([str(program), section], capture_output=True, text=True, check=True).stdout
    comparisons, mismatches = printed.split()
    return int(comparisons), int(mismatches)


@pytest.mark.parametrize("section", SECTIONS)
def test_map_equals_its_independent_formulation(program: Path, section: str) -> None:
    comparisons, mismatches = compare(program, section)
    assert comparisons > 0
    assert mismatches == 0


@pytest.mark.parametrize("section", PLANTED)
def test_a_wrong_descriptor_step_is_noticed(program: Path, section: str) -> None:
    comparisons, mismatches = compare(program, section)
    assert mismatches > comparisons // 2


def test_an_unknown_section_compares_nothing(program: Path) -> None:
    assert compare(program, "no such section") == (0, 0)
