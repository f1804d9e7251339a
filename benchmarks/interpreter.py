"""How fast Triton kernels are interpreted: attnbench's interpreter, every option on, against Triton's own plain one.

Our Triton forward, fp16, SEQLEN tokens, HEADS heads, once by each in a process of its own (the best of ROUNDS launches
after one to warm up). attnbench's runs with NaN in masked lanes, programs in another
order, races looked for; and one by one, to the same bits. Then a longer launch (LONG tokens) in one process with all
threads and spread over PROCESSES of one thread each, in turns. Exit status 1 where it is less than three times as fast
as Triton's own, or where bits differ.
Usage: interpreter.py [--seqlen N] [--heads N] [--head-dim N] [--tile M N] [--threads N] [--long N] [--processes N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

LEAST = 3.0
ROUNDS = 3
L2_BYTES = 50 << 20
WAYS = ("plain", "together", "one_by_one")
# Tokens of the launch that is spread over processes, and how often it is done in either way.
LONG, TURNS = 2048, 3
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Shape:
    """What is launched: tile_m query rows and tile_n keys a tile."""

    seqlen: int = 512
    heads: int = 4
    head_dim: int = 64
    tile_m: int = 64
    tile_n: int = 64

    @property
    def tiles(self) -> int:
        return self.heads * -(-self.seqlen // self.tile_m) * -(-self.seqlen // self.tile_n)


def launched(how: str, shape: Shape, threads: int, processes: int = 1) -> tuple[float, int]:
    """(seconds of the fastest launch, digest of its result), of a process of its own. processes: that it forks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    if how == "plain":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-W", "ignore", __file__, "--how", how, json.dumps(asdict(shape))]
    command += [str(threads), str(processes)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{how} ended with status {done.returncode}:\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["bits"]


def launch(how: str, shape: Shape, threads: int, processes: int) -> None:
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
        install().processes = processes
    from attnbench.backends.triton.forward import attention_forward

    case = Case.make(
        batch=1, num_heads=shape.heads, head_dim=shape.head_dim, seqlen_q=shape.seqlen, seqlen_k=shape.seqlen,
        dtype="fp16", causal=False,
    )  # fmt: skip
    inputs = make_inputs(case)
    out, lse = own.allocate(case, inputs.q)
    tile = own.Tile(shape.tile_m, shape.tile_n, 4, 2)
    fixed = {**own.arguments(case, inputs, False, L2_BYTES), **own.tile_arguments(tile)}
    values = {**fixed, "out": out, "lse": lse, **own.strides("o", out)}
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        attention_forward[own.grid(case)](**values, **own.COMPILER_OPTIONS)
        seconds.append(time.perf_counter() - started)
    digest = zlib.crc32(out.view(torch.uint8).numpy().tobytes())
    print(json.dumps({"seconds": min(seconds[1:]), "bits": digest}))


def main() -> int:
    if sys.argv[1:2] == ["--how"]:
        launch(sys.argv[2], Shape(**json.loads(sys.argv[3])), int(sys.argv[4]), int(sys.argv[5]))
        return 0
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seqlen", type=int, default=Shape.seqlen)
    arguments.add_argument("--heads", type=int, default=Shape.heads)
    arguments.add_argument("--head-dim", type=int, default=Shape.head_dim)
    arguments.add_argument("--tile", type=int, nargs=2, default=(Shape.tile_m, Shape.tile_n), metavar=("M", "N"))
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--long", type=int, default=LONG)
    arguments.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = arguments.parse_args()
    shape = Shape(asked.seqlen, asked.heads, asked.head_dim, *asked.tile)
    told = {how: launched(how, shape, asked.threads) for how in WAYS}
    what = f"{shape.tile_m} x {shape.tile_n}, head_dim {shape.head_dim}"
    for how, (seconds, _) in told.items():
        print(f"{how}: {seconds:.3f} s a launch, {1e3 * seconds / shape.tiles:.2f} ms a tile of {what}")
    ratio = told["plain"][0] / told["together"][0]
    same = told["together"][1] == told["one_by_one"][1]
    bits = "the same bits" if same else "OTHER BITS"
    print(f"{ratio:.1f} times as fast as Triton's own (at least {LEAST:g}); one by one: {bits}")
    alike = spread(replace(shape, seqlen=asked.long), asked.threads, asked.processes)
    return int(ratio < LEAST or not same or not alike)


def spread(shape: Shape, threads: int, processes: int) -> bool:
    """Tells what processes buy; whether they give the same bits."""
    turns = [(launched("together", shape, threads), launched("together", shape, 1, processes)) for _ in range(TURNS)]
    one, several = (min(seconds for seconds, _ in side) for side in zip(*turns))
    alike = len({bits for turn in turns for _, bits in turn}) == 1
    ratios = ", ".join(f"{alone / others:.2f}" for (alone, _), (others, _) in turns)
    print(f"seqlen {shape.seqlen}: {one:.3f} s a launch in one process with {threads} threads, {several:.3f} s in "
          f"{processes} with one each: {one / several:.2f} times as fast (in turns: {ratios}); "
          f"{'the same bits' if alike else 'OTHER BITS'}")  # fmt: skip
    return alike


if __name__ == "__main__":
    sys.exit(main())
