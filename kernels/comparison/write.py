"""Writes kernels/COMPARISON.md from what lies in a folder; `make comparison` puts it there.

    python kernels/comparison/write.py FOLDER

FOLDER/wheels holds peers' wheels, FOLDER/cubins/fa4 and FOLDER/cubins/triton what was compiled here; our own libraries
are those of `attnbench kernels build`. What is missing is said to be not run.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from attnbench.hopper.build import library_path, read_build
from attnbench.machine_code.comparison import MakersKernels, PlainForward, comparison
from attnbench.machine_code.read import read_files

# Those of our schedules that run by default, for each way of scaling and accumulating, and what FA3's clusters do.
OURS = ("overlap", "multicast", "fp8", "fp8_blocks", "fp8_two_level", "fp8_two_level_blocks")
LIBRARIES = ("fwd_overlap", "fwd_multicast", "fwd_fp8")
# (distribution as its wheel's file name begins, what it holds)
WHEELS = (
    ("fa3_fwd", "FA3 (fa3-fwd)"),
    ("tokenspeed_fa3", "FA3 (tokenspeed-fa3)"),
    ("flash_attn3_jax", "FA3 (flash-attn3-jax)"),
    ("sglang_kernel", "FA3 (sglang-kernel)"),
)
# vLLM's FlashAttention-3 has kernels for batches of several lengths only, and sums e4m3 by two levels. Of its wheel the
# one library is read.
VLLM, VLLM_LIBRARY = ("vllm", "FA3 (vllm, varlen)"), "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"
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


def from_vllm(folder: Path) -> MakersKernels:
    distribution, name = VLLM
    wheels = sorted(folder.glob(f"{distribution}-*.whl"))
    if not wheels:
        return MakersKernels(name, "-", "pip download --no-deps: not had", ())
    plain = PlainForward(called="FlashAttnFwdSm90", besides=("varlen", "packed_gqa"))
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheels[-1]) as wheel:
        kernels = read_files([Path(wheel.extract(VLLM_LIBRARY, unpacked))], plain)
    how = "pip download --no-deps; has varlen kernels only, e4m3 by two levels"
    return MakersKernels(name, wheels[-1].name.split("-")[1], how, tuple(kernels))


def compiled(folder: Path, name: str, made_by: str, how: str) -> MakersKernels:
    cubins = sorted(folder.glob("*.cubin"))
    return MakersKernels(name, made_by, how, tuple(read_files(cubins, PlainForward())) if cubins else ())


def main(folder: Path) -> None:
    fa4 = folder / "cubins" / "fa4"
    fa4_version = fa4 / "version"
    sources = [
        ours(),
        *(from_wheel(folder / "wheels", *wheel) for wheel in WHEELS),
        from_vllm(folder / "wheels"),
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
