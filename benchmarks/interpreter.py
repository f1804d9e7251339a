"""How fast Triton kernels are interpreted: attnbench's interpreter, every option on, against Triton's own plain one.

Our Triton forward, fp16, SEQLEN tokens, HEADS heads, once by each in a process of its own (the best of ROUNDS launches
after one to warm up). attnbench's runs with NaN in masked lanes, programs in another
order, races looked for; and one by one, to the same bits. Then a longer launch (LONG tokens) in one process with all
threads and spread over PROCESSES of one thread each, in turns. Then how soon wrong kernels are refused: cases of
`edges`, the smallest first, until one fails, seconds after the imports. Exit status 1 where it is less than three times
as fast as Triton's own, where bits differ, or where a wrong kernel is not refused within ten seconds.
Usage: interpreter.py [--seqlen N] [--heads N] [--head-dim N] [--tile M N] [--threads N] [--long N] [--processes N]
       interpreter.py --refused | --spread
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

LEAST = 3.0
ROUNDS = 3
L2_BYTES = 50 << 20
# Seconds, after the imports, in which a wrong kernel is to be refused.
LONGEST_REFUSAL_S = 10.0
# Our kernel with one line changed, so that its last tile counts one key too many; and twins of faults that published
# kernels have (docs/published-kernels.md): tails that are not masked, a causal mask aligned top left.
OURS, LINE, CHANGED = "ours", "seen = column[None, :] < seqlen_k", "seen = column[None, :] <= seqlen_k"
WRONG = (OURS, "tail", "top_left")
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


def refused() -> bool:
    """Tells how soon wrong kernels are refused, each in a process of its own; whether soon enough."""
    slowest = 0.0
    for name in WRONG:
        command = [sys.executable, "-W", "ignore", __file__, "--refuse", name]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE, check=True
        )
        told = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: refused {told['seconds']:.1f} s after the imports, at the case {told['case']} "
              f"(number {told['number']}): {told['why']}")  # fmt: skip
        slowest = max(slowest, told["seconds"])
    return slowest <= LONGEST_REFUSAL_S


def refuse(name: str) -> None:
    """Prints what `refused` reads. Raises StopIteration where every case of fp16 passes."""
    import torch  # noqa: F401  # what is imported first is not counted
    import triton  # noqa: F401

    import attnbench
    from attnbench.case import forward_flops
    from attnbench.interpreters.session import Session
    from attnbench.plugins import FunctionBackend
    from attnbench.records.record import LIKELY_CAUSE

    sys.path.insert(0, str(ROOT / "tests" / "interpreters"))
    session = Session()
    with session.importing():
        if name == OURS:
            backend = session.backend(ours_with_a_bug())
        else:
            backend = session.backend(FunctionBackend(name, __import__("planted_triton").wrong(name), source="planted"))
    cases = attnbench.cases("edges", only={"dtype": "fp16"})
    started = time.perf_counter()
    for number, case in enumerate(sorted(cases, key=lambda each: forward_flops(each.case)), 1):
        try:
            attnbench.check(backend, case)
        except AssertionError as error:
            seconds = time.perf_counter() - started
            why = " ".join(str(error).partition(LIKELY_CAUSE)[2].partition("\n")[0].split())
            print(json.dumps({"seconds": seconds, "case": case.case.key, "number": number, "why": why}))
            return
    raise StopIteration(f"no case of fp16 refuses {name}")


def ours_with_a_bug() -> Any:
    """Our Triton backend, whose kernel is read from a changed copy of its file."""
    import importlib.util
    import tempfile

    from attnbench.backends import triton as own

    text = (ROOT / "attnbench" / "backends" / "triton" / "forward.py").read_text()
    assert text.count(LINE) == 1, f"the line to change stands there once: {LINE}"
    folder = Path(tempfile.mkdtemp())
    path = folder / "forward.py"
    path.write_text(text.replace(LINE, CHANGED))
    name = f"{own.__name__}.forward"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a file that was just written"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.rmtree(folder)
    return own.Triton()


def main() -> int:
    if sys.argv[1:2] == ["--refuse"]:
        refuse(sys.argv[2])
        return 0
    if sys.argv[1:2] == ["--refused"]:
        return int(not refused())
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
    arguments.add_argument("--spread", action="store_true", help="only the longer launch")
    asked = arguments.parse_args()
    shape = Shape(asked.seqlen, asked.heads, asked.head_dim, *asked.tile)
    if asked.spread:
        return int(not spread(replace(shape, seqlen=asked.long), asked.threads, asked.processes))
    told = {how: launched(how, shape, asked.threads) for how in WAYS}
    what = f"{shape.tile_m} x {shape.tile_n}, head_dim {shape.head_dim}"
    for how, (seconds, _) in told.items():
        print(f"{how}: {seconds:.3f} s a launch, {1e3 * seconds / shape.tiles:.2f} ms a tile of {what}")
    ratio = told["plain"][0] / told["together"][0]
    same = told["together"][1] == told["one_by_one"][1]
    bits = "the same bits" if same else "OTHER BITS"
    print(f"{ratio:.1f} times as fast as Triton's own (at least {LEAST:g}); one by one: {bits}")
    alike = spread(replace(shape, seqlen=asked.long), asked.threads, asked.processes)
    return int(ratio < LEAST or not same or not alike or not refused())


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
