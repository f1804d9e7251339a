"""Compiles FlashAttention-4's forward kernels for sm_90a without a GPU, and leaves their cubins in a folder.

    python kernels/comparison/fa4.py FOLDER        with flash-attn-4 and nvidia-cutlass-dsl importable

Tensors are fake: CUTLASS's Python DSL compiles from their shapes alone. One process a kernel, since the DSL names a
cubin by the types of its arguments, which causal and non-causal share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

HEAD_DIMS = (64, 128, 256)
# Long enough that no tile is partial; the machine code does not depend on it.
SEQLEN = 4096
# What stands for the GPU that is not there: its architecture, and an H100 SXM's number of multiprocessors.
TARGET = {
    "FLASH_ATTENTION_ARCH": "sm_90a",
    "FLASH_ATTENTION_NUM_SMS": "132",
    "CUTE_DSL_ARCH": "sm_90a",
    "CUTE_DSL_KEEP_CUBIN": "1",
    "CUTE_DSL_DISABLE_FILE_CACHING": "1",
}


def compile_one(dtype: str, head_dim: int, causal: bool) -> None:
    """Compiles one kernel; its cubin lands in CUTE_DSL_DUMP_DIR."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        from flash_attn.cute.interface import _flash_attn_fwd

        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        q, k, v = (torch.empty(1, SEQLEN, 16, head_dim, dtype=kind, device="cuda") for _ in "qkv")
        _flash_attn_fwd(q, k, v, causal=causal)


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for head_dim, causal in product(HEAD_DIMS, (False, True)):
        name = f"fa4-bf16-d{head_dim}{'-causal' if causal else ''}.cubin"
        with tempfile.TemporaryDirectory() as dump:
            one = [sys.executable, __file__, "--one", "bf16", str(head_dim), str(int(causal))]
            done = subprocess.run(
                one, env={**os.environ, **TARGET, "CUTE_DSL_DUMP_DIR": dump}, cwd=dump, capture_output=True, text=True
            )
            cubins = sorted(Path(dump).rglob("*.cubin"))
            if not cubins:
                failed += 1
                print(f"{name}: no cubin\n{(done.stdout + done.stderr)[-2000:]}", file=sys.stderr)
                continue
            (folder / name).write_bytes(max(cubins, key=lambda cubin: cubin.stat().st_size).read_bytes())
            print(f"{name}: {cubins[0].name}" if len(cubins) == 1 else f"{name}: largest of {len(cubins)}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        compile_one(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
    else:
        sys.exit(main(Path(sys.argv[1])))
