"""Compiles attnbench's Triton forward for sm_90 without a GPU, and leaves its cubins in a folder.

    python kernels/comparison/triton_forward.py FOLDER

On a GPU the kernel is autotuned over its tiles; here the largest one that fits stands for it.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

from attnbench.backends.triton.ahead import compile_for
from attnbench.backends.triton.launch import Tile
from attnbench.case import Case

TILES = {64: Tile(128, 128, 8, 3), 128: Tile(128, 128, 8, 2), 256: Tile(128, 64, 8, 2)}
# e4m3 has a second accumulator: at head_dim 256 tiles of 128 x 64 and 64 x 64 spill; here two warpgroups share rows.
TILES_E4M3 = {64: Tile(128, 128, 8, 3), 128: Tile(128, 128, 8, 3), 256: Tile(64, 128, 8, 2)}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for dtype, head_dim, causal in product(("bf16", "e4m3"), (64, 128, 256), (False, True)):
        case = Case.make(batch=1, seqlen=1024, num_heads=2, head_dim=head_dim, dtype=dtype, causal=causal)
        tile = (TILES_E4M3 if dtype == "e4m3" else TILES)[head_dim]
        name = f"triton-{dtype}-d{head_dim}{'-causal' if causal else ''}.cubin"
        (folder / name).write_bytes(compile_for(case, tile, True, 90).asm["cubin"])
        print(f"{name}: {tile}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
