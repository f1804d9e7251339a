"""The emulation's arithmetic, compiled as kernels are (vectors where the processor has them) and plainly."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from attnbench.hopper.toolchain import HOST_FLAGS, KERNELS, find_host_compiler

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=["as kernels are", "plainly"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("numbers") / "numbers.so"
    flags = [flag for flag in HOST_FLAGS if request.param == "as kernels are" or flag != "-march=native"]
    include = f"-I{KERNELS / 'emulation' / 'include'}"
    command = [str(find_host_compiler()), *flags, include, str(HERE / "numbers.cpp"), "-o", str(output)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(output))


def exp2_of(library: ctypes.CDLL, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    library.exp2_each(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(x.size))
    return out


def test_powers_of_two_are_rounded_correctly_but_for_one_in_ten_thousand(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    spread = rng.uniform(-149, 128, 400_000)
    x = np.concatenate([spread, rng.uniform(-12, 0.5, 600_000)]).astype(np.float32)
    right = np.exp2(x.astype(np.longdouble)).astype(np.float32)
    found = exp2_of(library, x)
    wrong = found != right
    assert wrong.mean() < 1e-4
    ulp = np.spacing(right[wrong])
    assert (np.abs(found[wrong].astype(np.float64) - right[wrong]) <= ulp).all(), "then the neighbour"


def test_whole_powers_and_the_edges_are_exact(library: ctypes.CDLL) -> None:
    whole = np.arange(-149, 128, dtype=np.float32)
    assert (exp2_of(library, whole) == np.ldexp(np.float32(1), whole.astype(int))).all()
    x = np.array([0.0, -0.0, np.inf, -np.inf, 128.0, 3e38, -151.0, -3e38, 1e-45], np.float32)
    assert exp2_of(library, x).tolist() == [1.0, 1.0, np.inf, 0.0, np.inf, np.inf, 0.0, 0.0, 1.0]
    assert np.isnan(exp2_of(library, np.array([np.nan], np.float32))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_all_16_bit_numbers_are_widened_as_torch_does(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    out, transposed = np.empty(1 << 16, np.float32), np.empty(1 << 16, np.float32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (patterns, out, transposed)]
    library.widen_each(int(dtype == torch.float16), *pointers, ctypes.c_long((1 << 16) // 8))
    right = torch.from_numpy(patterns.view(np.int16)).view(dtype).float().numpy()
    assert np.array_equal(out, right, equal_nan=True)
    by_column = right.reshape(-1, 8, 8).transpose(0, 2, 1).ravel()
    assert np.array_equal(transposed, by_column, equal_nan=True)
