"""Compiles kernels/ while tests run that need none of it, in the order in which tests come to what is compiled.

Nothing depends on this: each library is compiled once, by whoever comes to it first, and others wait for it
(attnbench.hopper.build.compile_library). What does not compile is left for the test that needs it to say so.
"""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

from attnbench.hopper.build import BuildError, compile_library, kernel_sources
from attnbench.hopper.toolchain import emulated_recipe, hopper_recipe
from attnbench.machine_code.disassembler import ToolMissing
from tests.paths import ROOT

# What tests want first, and what takes longest.
FIRST = ("fwd_fp8", "quantize", "fwd_overlap")
# Compiled for Hopper by `make test`: what nvcc does in seconds. The others, minutes of it, by `make test-full`.
FOR_HOPPER = ("fwd_simple", "fwd_ws", "quantize")


def compile_one(make_recipe, source):
    with contextlib.suppress(BuildError, ToolMissing):
        compile_library(make_recipe(source))


def main():
    sources = sorted(kernel_sources(), key=lambda source: source.stem not in FIRST)
    hazards = [ROOT / "tests" / "emulation" / f"{name}.cu" for name in ("hazards", "cluster_hazards")]
    golden = ROOT / "tests" / "golden" / "probes.cu"
    jobs = [(emulated_recipe, source) for source in (*sources, *hazards, golden)]
    jobs += [(hopper_recipe, source) for source in sources if source.stem in FOR_HOPPER]
    # As many compilers again as there are tests running would only make both slower.
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // 2)) as pool:
        for make_recipe, source in jobs:
            pool.submit(compile_one, make_recipe, source)


if __name__ == "__main__":
    main()
