"""Our Triton kernel without a GPU: instructions in what it compiles to for sm_90 and sm_80.

They do not show that it runs on a GPU, nor how fast; test_on_gpu.py does the first. Its numbers:
test_triton_interpreted.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from attnbench.backends.triton.ahead import compile_for
from attnbench.backends.triton.launch import TILES, Tile, arguments, runnable_tiles
from attnbench.case import Case
from attnbench.machine.facts import module_installed
from attnbench.reference.inputs import make_inputs

HERE = Path(__file__).parent
SHARED_BYTES = {90: 232_448, 80: 166_912}  # CUDA programming guide, technical specifications per compute capability
needs_triton = pytest.mark.skipif(not module_installed("triton"), reason="not run: needs Triton")


def spilled_bytes(binary, folder):
    """Stack frame of the kernel, by the disassembler that Triton brings; our kernels have no local arrays."""
    import triton

    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage).group(1))


@needs_triton
@pytest.mark.parametrize(
    "values, tile",
    [
        ({"dtype": "fp16", "head_dim": 128}, Tile(128, 128, 8, 2)),
        ({"dtype": "bf16", "head_dim": 256}, Tile(128, 64, 8, 2)),
        ({"dtype": "e4m3", "head_dim": 128}, Tile(128, 128, 8, 3)),
        ({"dtype": "e4m3", "head_dim": 256, "scaling": "block"}, Tile(64, 128, 8, 2)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_instructions_on_hopper(values, tile, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    case = Case.make(batch=1, seqlen=1024, num_heads=2, causal=True, **values)
    assert tile in runnable_tiles(arguments(case, make_inputs(case), True, 0), SHARED_BYTES[90])
    binary = compile_for(case, tile, True, 90)
    assert binary.metadata.enable_fp_fusion
    ptx = binary.asm["ptx"]
    operands = {"fp16": "f16.f16", "bf16": "bf16.bf16", "e4m3": "e4m3.e4m3"}[case.dtype]
    wgmma = re.findall(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k\d+\.f32\.(\w+\.\w+)", ptx)
    assert wgmma and set(wgmma) == {operands}
    assert "cp.async.bulk.tensor.4d" in ptx  # TMA over (batch, heads, seqlen, dim)
    assert "ex2.approx" in ptx
    assert binary.metadata.shared <= SHARED_BYTES[90]
    assert spilled_bytes(binary, tmp_path) == 0
    dots = [line for line in binary.asm["ttgir"].splitlines() if "ttng.warp_group_dot " in line]
    from_zero = [
        re.search(r"warp_group_dot %[\w#]+, %[\w#]+, (%\w+)", line).group(1).startswith("%cst") for line in dots
    ]
    # QK^T always starts from zero; PV too with two-level accumulation.
    assert len(dots) == 4 and from_zero.count(True) == (4 if case.is_fp8 else 2)


@needs_triton
def test_instructions_before_hopper(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    case = Case.make(batch=1, seqlen=1024, num_heads=2, head_dim=128, dtype="bf16", causal=True)
    tile = Tile(128, 64, 8, 2)
    assert tile in runnable_tiles(arguments(case, make_inputs(case), False, 0), SHARED_BYTES[80])
    binary = compile_for(case, tile, False, 80)
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in binary.asm["ptx"]
    assert "cp.async.bulk" not in binary.asm["ptx"] and "wgmma" not in binary.asm["ptx"]
    assert spilled_bytes(binary, tmp_path) == 0


@pytest.mark.parametrize("dtype", ["bf16", "e4m3"])
@pytest.mark.parametrize("tma, capability", [(True, 90), (False, 80)])
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128, 192, 256])
def test_some_tile_is_always_runnable(head_dim, tma, capability, dtype):
    values = {"FP8": dtype == "e4m3", "TMA": tma, "seqlen_q": 4096}
    values |= dict.fromkeys(("BLOCK_D", "BLOCK_DV"), 1 << (head_dim - 1).bit_length())
    tiles = runnable_tiles(values, SHARED_BYTES[capability])
    width = 1 if values["FP8"] else 2
    assert tiles and set(tiles) <= set(TILES)
    for tile in tiles:
        staged = tile.stages * tile.block_n * 2 * values["BLOCK_D"]
        assert (tile.block_m * values["BLOCK_D"] + staged) * width <= SHARED_BYTES[capability]
    assert all(tile.block_m <= 64 for tile in runnable_tiles({**values, "seqlen_q": 64}, SHARED_BYTES[capability]))
