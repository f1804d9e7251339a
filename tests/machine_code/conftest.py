"""The compiler and the disassembler where there are any, and small cubins built once per session."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from code_by_hand import compiled


@pytest.fixture(scope="session")
def compile_once(nvcc, tmp_path_factory):
    """compile_once(arch, *options): a file made of products.cu, not to be changed."""
    return partial(compiled, nvcc, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def hopper_cubin(compile_once) -> Path:
    return compile_once("sm_90a")


@pytest.fixture(scope="session")
def ampere_cubin(compile_once) -> Path:
    return compile_once("sm_80")
