"""Writes kernels/COMPARISON.md from what lies in a folder; `make comparison` puts it there.

    python kernels/comparison/write.py FOLDER

FOLDER/wheels holds peers' wheels, FOLDER/cubins/fa4 and FOLDER/cubins/triton what was compiled here; our own libraries
are those of `attnbench kernels build`. What is missing is said to be not run.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from attnbench.hopper.build import library_path, read_build
from attnbench.machine_code.comparison import MakersKernels, PlainForward, comparison
from attnbench.machine_code.read import read_files

# Those of our schedules that run by default, for each way of scaling and accumulating.
OURS = ("overlap", "fp8", "fp8_blocks", "fp8_two_level", "fp8_two_level_blocks")
LIBRARIES = ("fwd_overlap", "fwd_fp8")
# (distribution as its wheel's file name begins, what it holds)
WHEELS = (
    ("fa3_fwd", "FA3 (fa3-fwd)"),
    ("tokenspeed_fa3", "FA3 (tokenspeed-fa3)"),
    ("flash_attn3_jax", "FA3 (flash-attn3-jax)"),
    ("sglang_kernel", "FA3 (sglang-kernel)"),
)
DOCUMENT = Path(__file__).parent.parent / "COMPARISON.md"


def ours() -> MakersKernels:
    files = [library_path(name) for name in LIBRARIES]
    builds = [build for file in files if (build := read_build(file)) is not None]
    kernels = read_files([file for file in files if file.exists()], PlainForward(OURS)) if builds else []
    kernels.sort(key=lambda kernel: OURS.index(str(kernel.arguments["schedule"])))
    made_by = ", ".join(sorted({build.compiler for build in builds}))
    return MakersKernels("ours", "this checkout", f"attnbench kernels build, {made_by or 'no nvcc'}", tuple(kernels))


def from_wheel(folder: Path, distribution: str, name: str) -> MakersKernels:
    wheels = sorted(folder.glob(f"{distribution}-*.whl"))
    if not wheels:
        return MakersKernels(name, "-", "pip download --no-deps: not had", ())
    kernels = read_files([wheels[-1]], PlainForward(called="FlashAttnFwdSm90"))
    return MakersKernels(name, wheels[-1].name.split("-")[1], "pip download --no-deps", tuple(kernels))


def compiled(folder: Path, name: str, made_by: str, how: str) -> MakersKernels:
    cubins = sorted(folder.glob("*.cubin"))
    return MakersKernels(name, made_by, how, tuple(read_files(cubins, PlainForward())) if cubins else ())


def main(folder: Path) -> None:
    fa4 = folder / "cubins" / "fa4"
    fa4_version = fa4 / "version"
    sources = [
        ours(),
        *(from_wheel(folder / "wheels", *wheel) for wheel in WHEELS),
        compiled(
            fa4, "FA4", fa4_version.read_text().strip() if fa4_version.exists() else "-", "kernels/comparison/fa4.py"
        ),
        compiled(
            folder / "cubins" / "triton", "Triton (ours)", f"triton {version('triton')}",
            "kernels/comparison/triton_forward.py",
        ),
    ]  # fmt: skip
    DOCUMENT.write_text(comparison(sources, "make comparison"))
    for source in sources:
        print(f"{source.name}: {len(source.kernels)} kernels" if source.kernels else f"{source.name}: not run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
