"""Throughput of the emulation of our kernels: GFLOP/s of a launch, against another checkout's emulation in one run.

    python benchmarks/emulation.py [--against CHECKOUT] [--triton] [--seqlen N] [--heads N] [--rounds N]

Launches of kernels/fwd_overlap.cu, bf16, random delivery, in turns: two CTAs in flight (two threads of the host) and
one, full checks and fast ones. GFLOP are those of the formula that every record uses (4 seqlen^2 head_dim a head). Wall
seconds of the fastest round, and processor seconds, which other work on the machine changes less. --triton: our Triton
forward on the same shape (fp16, one head, tiles of 128 x 64) in Triton's own interpreter, on as many threads.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from interpreter import Shape, launched

from attnbench.case import Case, forward_flops
from attnbench.hopper import emulation
from attnbench.hopper.build import compile_library
from attnbench.hopper.emulation import FAST, RANDOM, EmulationConfig, Emulator
from attnbench.hopper.forward import BoundForward
from attnbench.hopper.library import KernelLibrary
from attnbench.hopper.toolchain import KERNELS, emulated_recipe

SOURCE = "fwd_overlap"


def library_of(kernels: Path, build: Path) -> KernelLibrary:
    """The emulated library of a checkout's kernels/, compiled unless it is there."""
    recipe = emulated_recipe(kernels / f"{SOURCE}.cu", build)
    own = (kernels / "emulation" / "include", kernels / "include")
    recipe = dataclasses.replace(recipe, include_dirs=own)
    compile_library(recipe)
    return KernelLibrary(recipe.library)


class OldConfig(ctypes.Structure):
    """The configuration as it was before `checks`: what an older library takes."""

    _fields_ = emulation._Config._fields_[:-2]


def configure(library: KernelLibrary, config: EmulationConfig) -> None:
    """Raises RuntimeError where a library takes neither configuration."""
    try:
        Emulator(library.c_library).configure(config)
        return
    except ValueError:  # refused: another size of the structure
        pass
    row = OldConfig(ctypes.sizeof(OldConfig), emulation.DELIVERIES.index(config.delivery), config.seed,
                    config.multiprocessors, config.resident_ctas, 0, 1, 0, -1, 0)  # fmt: skip
    if library.c_library.attnbench_emulation_configure(ctypes.byref(row)):
        raise RuntimeError(f"{library.path} takes no configuration that this benchmark knows")


def launched_s(library: KernelLibrary, case: Case, config: EmulationConfig) -> tuple[float, float]:
    """(wall, processor) seconds of one launch."""
    torch.manual_seed(0)
    shape = (case.batch, case.seqlen_q, case.num_heads, case.head_dim)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(3))
    variant = library.find("overlap", "bf16", case.head_dim, case.causal)
    assert variant is not None, "fwd_overlap has a variant for bf16"
    bound = BoundForward.of(library, variant, q, k, v, case.causal, case.scale)
    configure(library, config)
    wall, processor = time.perf_counter(), time.process_time()
    bound.launch()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of attnbench")
    parser.add_argument("--seqlen", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--triton", action="store_true", help="Triton's own interpreter as well")
    given = parser.parse_args()
    case = Case.make(
        batch=1, num_heads=given.heads, head_dim=given.head_dim, seqlen_q=given.seqlen, seqlen_k=given.seqlen
    )
    ours = library_of(KERNELS, KERNELS.parent / "build" / "kernels")
    one, two = EmulationConfig(RANDOM, seed=1), EmulationConfig(RANDOM, seed=1, resident_ctas=2)
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "full, two threads": lambda: launched_s(ours, case, two),
        "full, one thread": lambda: launched_s(ours, case, one),
        "fast, two threads": lambda: launched_s(ours, case, dataclasses.replace(two, checks=FAST)),
        "fast, one thread": lambda: launched_s(ours, case, dataclasses.replace(one, checks=FAST)),
    }
    if given.against is not None:
        folder = given.against.resolve()
        theirs = library_of(folder / "kernels", folder / "build" / "kernels")
        sides[f"{given.against}, one thread"] = lambda: launched_s(theirs, case, one)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, run in sides.items():
            taken[name].append(run())
    gflop = forward_flops(case) / 1e9
    last = list(sides)[-1]
    base_s, base_processor_s = (min(values) for values in zip(*taken[last]))
    for name, rows in taken.items():
        wall_s, processor_s = (min(values) for values in zip(*rows))
        print(
            f"{name}: {wall_s:.3f} s, {gflop / wall_s:.2f} GFLOP/s ({base_s / wall_s:.2f} times the last); processor "
            f"{processor_s:.3f} s, {gflop / processor_s:.2f} GFLOP/s ({base_processor_s / processor_s:.2f} times)"
        )
    if given.triton:
        shape = Shape(given.seqlen, 1, given.head_dim, 128, 64)
        seconds = launched("plain", shape, torch.get_num_threads())[0]
        rate, full_s = gflop / given.heads / seconds, min(wall_s for wall_s, _ in taken["full, two threads"])
        print(
            f"Triton's interpreter, one head: {seconds:.3f} s, {rate:.3f} GFLOP/s; the emulation with full checks is "
            f"{gflop / full_s / rate:.0f} times as fast"
        )


if __name__ == "__main__":
    main()
