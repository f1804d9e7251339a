"""Inputs and independently computed outputs of the probes in probes.cu beside this file, and the calls that run them.

Matrices hold small whole numbers, so every product and sum is exact in fp32 in any order; what is left to be wrong is
where an element lies. All arrays are bit patterns (uint8, uint16, uint32) or fp32.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field

import numpy as np
import torch

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}
DTYPE_CODES = {"fp16": 0, "bf16": 1, "e4m3": 2}
THREADS, ROWS, STEPS = 128, 64, 4
# Probes whose hardware output is known up to a tolerance only: relative error, and why.
TOLERANCES = {
    "exponentials": (2.0**-21, "ex2.approx has a relative error of up to 2^-22"),
    "ss_e4m3_sums": (2.0**-11, "the tensor core's sum of e4m3 products is modelled from publications"),
}


class GoldenTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p)] + [(n, ctypes.c_int32) for n in ("dtype", "rows", "columns", "box_rows")]


@dataclass
class Probe:
    """a, b: (bits, dtype, box_rows) of the tensors, or None. words: raw 32-bit inputs. out_words: size of the output.
    expected: the output, bit for bit. output_is_b: what the probe writes is tensor b itself."""

    name: str
    expected: np.ndarray
    out_words: int
    a: tuple[np.ndarray, str, int] | None = None
    b: tuple[np.ndarray, str, int] | None = None
    words: np.ndarray = field(default_factory=lambda: np.zeros(1, np.uint32))
    output_is_b: bool = False


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds to a narrow type; the bit patterns."""
    tensor = torch.from_numpy(np.asarray(values, np.float32)).to(TORCH[dtype])
    if dtype == "e4m3":
        return tensor.view(torch.uint8).numpy()
    return tensor.view(torch.int16).numpy().view(np.uint16)


def integers(name: str, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(len(name) * 1000 + sum(map(ord, name))).integers(-8, 9, shape).astype(np.float32)


# ---- TMA: a tensor of 50 rows of 40 fp16, the box of 64 x 64 at column -8, row 3 ----


def _box() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column in the tensor of each element of the box, and whether it is inside."""
    row, column = np.mgrid[3:67, -8:56]
    return row, column, (row < 50) & (column >= 0) & (column < 40)


def _swizzled_index() -> np.ndarray:
    """Where element (row, column) of a 64 x 64 box lies, in 16-bit elements: chunk c of row r is at c xor (r mod 8)."""
    row, column = np.mgrid[0:64, 0:64]
    return row * 64 + ((column // 8) ^ (row % 8)) * 8 + column % 8


def tma_image() -> Probe:
    tensor = np.arange(1, 50 * 40 + 1, dtype=np.uint16).reshape(50, 40)
    row, column, inside = _box()
    image = np.zeros(64 * 64, np.uint16)
    image[_swizzled_index()] = np.where(inside, tensor[np.clip(row, 0, 49), np.clip(column, 0, 39)], 0)
    return Probe("tma_image", image.view(np.uint32), 2048, a=(tensor, "fp16", 64))


def tma_half_panel() -> Probe:
    """64 rows of 64 bytes in a box of 64 x 128: the second half of each row of 8 chunks is zero, and swizzled too."""
    tensor = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8) | 1
    row, column = np.mgrid[0:64, 0:128]
    image = np.zeros(64 * 128, np.uint8)
    place = row * 128 + ((column // 16) ^ (row % 8)) * 16 + column % 16
    image[place] = np.where(column < 64, tensor[row, np.clip(column, 0, 63)], 0)
    return Probe("tma_half_panel", image.view(np.uint32), 2048, a=(tensor, "e4m3", 64))


def multicast_image() -> Probe:
    """Two boxes of 64 x 64, one below the other, in the memory of either CTA."""
    tensor = np.arange(128 * 64, dtype=np.uint16).reshape(2, 64 * 64)
    images = np.zeros((2, 64 * 64), np.uint16)
    images[:, _swizzled_index().ravel()] = tensor
    expected = np.concatenate([images, images]).view(np.uint32).ravel()
    return Probe("multicast_image", expected, expected.size, a=(tensor.reshape(128, 64), "fp16", 64))


def tma_stored() -> Probe:
    image = np.arange(1, 64 * 64 + 1, dtype=np.uint16)
    target = np.full((50, 40), 0xFFFF, np.uint16)
    row, column, inside = _box()
    expected = target.copy()
    expected[row[inside], column[inside]] = image[_swizzled_index()][inside]
    return Probe("tma_stored", expected, 1, b=(target, "fp16", 64), words=image.view(np.uint32), output_is_b=True)


# ---- products ----


def accumulator_of(d: np.ndarray) -> np.ndarray:
    """(64, n) product as each thread's registers, (128, n / 2); PTX ISA, figure of the wgmma D fragment."""
    n = d.shape[1]
    # (warp, half of its 16 rows, row of 8, column of 8-wide blocks, quad position, pair) -> (thread, register)
    blocks = d.reshape(4, 2, 8, n // 8, 4, 2)
    return np.ascontiguousarray(blocks.transpose(0, 2, 4, 3, 1, 5)).reshape(THREADS, n // 2)


def fragment_of(a: np.ndarray) -> np.ndarray:
    """Bits of a 64 x k matrix as A fragments, (steps, 128, 4) words; PTX ISA, figures of the wgmma A fragment."""
    per_word = 4 // a.itemsize
    # (warp, half of rows, row of 8, step, half of k, quad position, element)
    #   -> (step, thread, register = (half of k, half of rows))
    blocks = a.reshape(4, 2, 8, STEPS, 2, 4, per_word)
    words = np.ascontiguousarray(blocks.transpose(3, 0, 2, 5, 4, 1, 6)).reshape(STEPS, THREADS, 4 * per_word)
    return words.view(np.uint32).reshape(STEPS, THREADS, 4)


_PRODUCT = re.compile(r"(ss|rs)_(fp16|bf16|e4m3)_(?:n(\d+)|sums)(_ta)?(_tb)?")


def product(name: str) -> Probe:
    match = _PRODUCT.fullmatch(name)
    assert match, name
    source, dtype, n, a_transposed, b_transposed = match.groups()
    columns, k = int(n or 64), 128 if dtype == "e4m3" else 64
    a, b = integers(name + "a", (ROWS, k)), integers(name + "b", (k, columns))
    expected = accumulator_of((a @ b).astype(np.float32))
    if name.endswith("sums"):  # one large product among small ones: the aligned sum drops bits
        a, b = _uneven(a), _uneven(b)
        expected = accumulator_of(truncated_product(a, b))
    a_bits, b_bits = bits(a, dtype), bits(b, dtype)
    b_tensor = np.ascontiguousarray(b_bits if b_transposed else b_bits.T)
    probe = Probe(name, expected, expected.size, b=(b_tensor, dtype, 64 if b_transposed else columns))
    if source == "rs":
        probe.words = fragment_of(a_bits).ravel()
    else:
        probe.a = (np.ascontiguousarray(a_bits.T if a_transposed else a_bits), dtype, ROWS)
    return probe


def _uneven(x: np.ndarray) -> np.ndarray:
    scale = np.where(np.arange(x.size).reshape(x.shape) % 7 == 0, 16.0, 0.0625)
    return (x * scale).astype(np.float32)


def truncated_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of 32 and the running sum aligned to the largest and cut to 14 bits, towards zero."""
    total = np.zeros((a.shape[0], b.shape[1]))
    for step in range(0, a.shape[1], 32):
        terms = a[:, step : step + 32, None].astype(np.float64) * b[None, step : step + 32, :]
        terms = np.concatenate([terms, total[:, None, :]], axis=1)
        _, exponent = np.frexp(np.abs(terms).max(axis=1))
        quantum = np.ldexp(1.0, exponent - 14)[:, None, :]
        total = (np.trunc(terms / quantum) * quantum).sum(axis=1).astype(np.float32).astype(np.float64)
    return total.astype(np.float32)


# ---- stmatrix, conversions, exponentials ----


def fragment_store(name: str) -> Probe:
    matrices = np.arange(4 * 4 * 8 * 8, dtype=np.uint16).reshape(4, 4, 8, 8)  # warp, matrix, row, column
    held = matrices.transpose(0, 1, 3, 2) if name.endswith("trans") else matrices
    # Lane l holds row l / 4, columns 2 (l % 4) and the next, of each matrix in one register.
    words = np.ascontiguousarray(held.reshape(4, 4, 8, 4, 2).transpose(0, 2, 3, 1, 4)).reshape(-1).view(np.uint32)
    return Probe(name, matrices.reshape(-1).view(np.uint32).copy(), 512, words=words)


def special_floats() -> np.ndarray:
    """Every bit pattern class that rounds in its own way: ties, overflow, subnormals, zeros, infinities, NaN."""
    generator = np.random.default_rng(5)
    e4m3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    fp16 = torch.arange(0, 65536, 37, dtype=torch.int32).to(torch.int16).view(torch.float16).float().numpy()
    finite = np.concatenate([e4m3[np.isfinite(e4m3)], fp16[np.isfinite(fp16)]]).astype(np.float32)
    between = (np.sort(finite)[1:].astype(np.float64) + np.sort(finite)[:-1]) / 2
    near = np.nextafter(between.astype(np.float32), np.float32(np.inf))
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 465, 480, 65504, 65519.996, 65520, 3.4e38, 1e-45])
    spread = generator.standard_normal(2000) * 10.0 ** generator.uniform(-9, 6, 2000)
    return np.concatenate([finite, between, near, edges, -edges, spread]).astype(np.float32)


def canonical(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded bits with NaN as the PTX cvt gives it (all ones but the sign)."""
    clipped = np.clip(values, -448, 448) if dtype == "e4m3" else values
    nan = 0x7F if dtype == "e4m3" else 0x7FFF
    return np.where(np.isnan(values), nan, bits(clipped, dtype)).astype(np.uint32)


def conversions() -> Probe:
    x = special_floats()
    expected = np.zeros(3 * x.size, np.uint32)
    count = x.size - 3
    for i, dtype in enumerate(("fp16", "bf16")):
        packed = canonical(x, dtype)
        expected[i : 3 * count : 3] = packed[:count] | packed[1 : count + 1] << 16
    packed = canonical(x, "e4m3")
    expected[2 : 3 * count : 3] = sum(packed[i : count + i] << (8 * i) for i in range(4))
    return Probe("conversions", expected, expected.size, words=x.view(np.uint32))


def exponentials() -> Probe:
    x = np.concatenate([np.linspace(-130, 20, 4001), [-np.inf, 0.0, -0.0, 127.9, 200.0, np.nan]]).astype(np.float32)
    y = np.exp2(x.astype(np.float64))
    flushed = np.where(y < 2.0**-126, 0.0, y)
    with np.errstate(over="ignore"):
        return Probe("exponentials", flushed.astype(np.float32), x.size, words=x.view(np.uint32))


def make_probe(name: str) -> Probe:
    if name.startswith("stmatrix"):
        return fragment_store(name)
    plain = {f.__name__: f for f in (tma_image, tma_half_panel, multicast_image, tma_stored, conversions, exponentials)}
    return plain[name]() if name in plain else product(name)


# ---- running ----


def names(library: ctypes.CDLL) -> list[str]:
    library.golden_name.restype = ctypes.c_char_p
    found: list[str] = []
    while name := library.golden_name(len(found)):
        found.append(name.decode())
    return found


def run(library: ctypes.CDLL, probe: Probe, device: str) -> np.ndarray:
    """The probe's output, in the shape and type of `expected`. Raises on a status."""
    keep: list[torch.Tensor] = []

    def upload(array: np.ndarray) -> torch.Tensor:
        keep.append(torch.from_numpy(np.ascontiguousarray(array).view(np.uint8).copy()).to(device))
        return keep[-1]

    def tensor(spec: tuple[np.ndarray, str, int] | None) -> GoldenTensor:
        if spec is None:
            return GoldenTensor()
        array, dtype, box_rows = spec
        return GoldenTensor(upload(array).data_ptr(), DTYPE_CODES[dtype], *array.shape, box_rows)

    a, b = tensor(probe.a), tensor(probe.b)
    target = keep[-1] if probe.output_is_b else upload(np.zeros(probe.out_words, np.uint32))
    words = upload(probe.words)
    library.golden_run.argtypes = [ctypes.c_int32, *[ctypes.POINTER(GoldenTensor)] * 2, ctypes.c_void_p,
                                   ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p]  # fmt: skip
    status = library.golden_run(names(library).index(probe.name), a, b, words.data_ptr(), probe.words.size,
                                target.data_ptr(), None)  # fmt: skip
    if status:
        raise RuntimeError(f"{probe.name}: status {status}")
    if device != "cpu":
        torch.cuda.synchronize()
    return target.cpu().numpy().view(probe.expected.dtype).reshape(probe.expected.shape)


def difference(name: str, got: np.ndarray, want: np.ndarray) -> str:
    """ "" where equal: bit for bit, or within the probe's tolerance."""
    if name not in TOLERANCES:
        wrong = got.view(np.uint8) != want.view(np.uint8)
        return f"{name}: {int(wrong.sum())} of {wrong.size} bytes differ" if wrong.any() else ""
    tolerance, _ = TOLERANCES[name]
    special = ~np.isfinite(want)
    if not np.array_equal(got[special], want[special], equal_nan=True):
        return f"{name}: infinities or NaN differ"
    scale = np.abs(want[~special]) if name == "exponentials" else np.abs(want[~special]).max()
    off = np.abs(got[~special].astype(np.float64) - want[~special])
    return f"{name}: off by {(off / np.maximum(scale, 1e-300)).max():.3g}" if (off > tolerance * scale).any() else ""
