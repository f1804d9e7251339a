"""What the kernel tests share: the compilers where there are any, and small libraries built once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbench.hopper.build import build_all, build_emulated, compile_library, kernel_sources, library_path
from attnbench.hopper.library import KernelLibrary
from attnbench.hopper.toolchain import emulated_recipe, hopper_recipe

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_library(nvcc, tmp_path_factory) -> KernelLibrary:
    """A real CUDA build of tiny.cu."""
    recipe = hopper_recipe(HERE / "tiny.cu", build_dir=tmp_path_factory.mktemp("tiny"))
    compile_library(recipe)
    return KernelLibrary(recipe.library)


@pytest.fixture(scope="session")
def simple_library(nvcc) -> KernelLibrary:
    """The kernel to read first, as it is built for Hopper."""
    build_all(["fwd_simple"])
    return KernelLibrary(library_path("fwd_simple"))


@pytest.fixture(scope="session")
def emulated_library() -> KernelLibrary:
    """The same source compiled for the CPU."""
    return KernelLibrary(build_emulated(*kernel_sources(["fwd_simple"])))


@pytest.fixture(scope="session")
def scalar_library(tmp_path_factory) -> KernelLibrary:
    """Scalar attention behind the same interface, on CPU tensors."""
    recipe = emulated_recipe(HERE / "scalar_attention.cpp", build_dir=tmp_path_factory.mktemp("scalar"))
    compile_library(recipe)
    return KernelLibrary(recipe.library)
