"""Throughput of the emulation of our kernels: GFLOP/s of a launch, against another checkout's emulation in one run.

    python benchmarks/emulation.py [--against CHECKOUT] [--seqlen N] [--heads N] [--rounds N]

Launches of kernels/fwd_overlap.cu, bf16, head_dim 128, random delivery, in turns. GFLOP are those of the formula that
every record uses (4 seqlen^2 head_dim a head), wall seconds those of the fastest of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from pathlib import Path

import torch

from attnbench.case import Case, forward_flops
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


def launch_s(library: KernelLibrary, case: Case, config: EmulationConfig | None) -> float:
    """Wall seconds of one launch; without a configuration the library runs under its own default."""
    torch.manual_seed(0)
    shape = (case.batch, case.seqlen_q, case.num_heads, case.head_dim)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(3))
    variant = library.find("overlap", "bf16", case.head_dim, case.causal)
    assert variant is not None, "fwd_overlap has a variant for bf16"
    bound = BoundForward.of(library, variant, q, k, v, case.causal, case.scale)
    if config is not None:
        Emulator(library.c_library).configure(config)
    started = time.perf_counter()
    bound.launch()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of attnbench")
    parser.add_argument("--seqlen", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    case = Case.make(
        batch=1, num_heads=given.heads, head_dim=given.head_dim, seqlen_q=given.seqlen, seqlen_k=given.seqlen
    )
    ours = library_of(KERNELS, KERNELS.parent / "build" / "kernels")
    sides = {
        "checked": lambda: launch_s(ours, case, EmulationConfig(RANDOM, seed=1)),
        "fast": lambda: launch_s(ours, case, EmulationConfig(RANDOM, seed=1, checks=FAST)),
    }
    if given.against is not None:
        folder = given.against.resolve()
        theirs = library_of(folder / "kernels", folder / "build" / "kernels")
        # NOTE: its configuration may have other fields than ours, so it runs under its own default, lazy delivery.
        sides[f"{given.against}, lazy"] = lambda: launch_s(theirs, case, None)
    fastest = dict.fromkeys(sides, float("inf"))
    for _ in range(given.rounds):
        for name, run in sides.items():
            fastest[name] = min(fastest[name], run())
    gflop = forward_flops(case) / 1e9
    slowest = max(fastest.values())
    for name, seconds in fastest.items():
        print(f"{name}: {seconds:.3f} s, {gflop / seconds:.2f} GFLOP/s, {slowest / seconds:.2f} times the slowest")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
