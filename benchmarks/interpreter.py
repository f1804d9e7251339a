"""How fast Triton kernels are interpreted: attnbench's interpreter, every option on, against Triton's own plain one.

Our Triton forward, fp16, head_dim 64, tiles of 64 x 64, SEQLEN tokens, HEADS heads, once by each in a process of its
own (the best of ROUNDS launches after one to warm up). attnbench's runs with NaN in masked lanes, programs in another
order, races looked for; and one by one, to the same bits. Exit status 1 where it is less than three times as fast.
Usage: interpreter.py [--seqlen N] [--heads N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

LEAST = 3.0
ROUNDS = 3
TILE = 64
L2_BYTES = 50 << 20
WAYS = ("plain", "together", "one_by_one")
ROOT = Path(__file__).resolve().parent.parent


def launched(how: str, seqlen: int, heads: int, threads: int) -> tuple[float, int]:
    """(seconds of the fastest launch, digest of its result), of a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    if how == "plain":
        environment["TRITON_INTERPRET"] = "1"
    sizes = ["--seqlen", str(seqlen), "--heads", str(heads), "--threads", str(threads)]
    command = [sys.executable, "-W", "ignore", __file__, *sizes, "--how", how]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{how} ended with status {done.returncode}:\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["bits"]


def launch(how: str, seqlen: int, heads: int, threads: int) -> None:
    """Prints what `launched` reads."""
    import torch

    from attnbench.backends.triton import launch as own
    from attnbench.case import Case
    from attnbench.reference.inputs import make_inputs

    torch.set_num_threads(threads)
    if how != "plain":
        from attnbench.interpreters.backend import Conditions
        from attnbench.interpreters.triton.launch import install

        install().conditions = Conditions(poisoned=True, order=7, one_by_one=how == "one_by_one")
    from attnbench.backends.triton.forward import attention_forward

    case = Case.make(
        batch=1, num_heads=heads, head_dim=64, seqlen_q=seqlen, seqlen_k=seqlen, dtype="fp16", causal=False
    )
    inputs = make_inputs(case)
    out, lse = own.allocate(case, inputs.q)
    fixed = {**own.arguments(case, inputs, False, L2_BYTES), **own.tile_arguments(own.Tile(TILE, TILE, 4, 2))}
    values = {**fixed, "out": out, "lse": lse, **own.strides("o", out)}
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        attention_forward[own.grid(case)](**values, **own.COMPILER_OPTIONS)
        seconds.append(time.perf_counter() - started)
    digest = zlib.crc32(out.view(torch.uint8).numpy().tobytes())
    print(json.dumps({"seconds": min(seconds[1:]), "bits": digest}))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--heads", type=int, default=4)
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--how", choices=WAYS, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.how:
        launch(asked.how, asked.seqlen, asked.heads, asked.threads)
        return 0
    tiles = asked.heads * (-(-asked.seqlen // TILE)) ** 2
    told = {how: launched(how, asked.seqlen, asked.heads, asked.threads) for how in WAYS}
    for how, (seconds, _) in told.items():
        print(f"{how}: {seconds:.3f} s a launch, {1e3 * seconds / tiles:.2f} ms a tile of {TILE} x {TILE} x {TILE}")
    ratio = told["plain"][0] / told["together"][0]
    same = told["together"][1] == told["one_by_one"][1]
    bits = "the same bits" if same else "OTHER BITS"
    print(f"{ratio:.1f} times as fast as Triton's own (at least {LEAST:g}); one by one: {bits}")
    return int(ratio < LEAST or not same)


if __name__ == "__main__":
    sys.exit(main())
