"""Reads every kernel of files: extracts their cubins, decodes them on all cores, and tells what each shows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from attnbench.machine_code.cubin import Kernel, read_kernels
from attnbench.machine_code.disassembler import Disassembler, find_disassembler
from attnbench.machine_code.encodings import Decoder
from attnbench.machine_code.files import CubinFile, extract_cubins
from attnbench.machine_code.kernel import MachineKernel, kernel_facts
from attnbench.machine_code.loops import main_loops
from attnbench.machine_code.names import read_name
from attnbench.machine_code.only import Filter, Only

# Machine code that is decoded at a time: enough that nvdisasm is seldom started, little enough to be held: an
# instruction of 16 bytes takes some 250 meanwhile.
BATCH_BYTES = 16 << 20
# Cubins below this size together are not worth a second process.
ALONE_BYTES = 2 << 20


def read_files(files: Sequence[Path], only: Filter | None = None, jobs: int | None = None) -> list[MachineKernel]:
    """Every kernel of the files that `only` keeps, in the files' order.

    Raises UserError (NoMachineCode, ToolMissing) in a line for what cannot be read, and where a filter keeps nothing.
    """
    tool = find_disassembler()
    only = only or Only(())
    found: list[MachineKernel] = []
    for file in files:
        with tempfile.TemporaryDirectory(prefix="attnbench-") as folder:
            cubins = extract_cubins(file, Path(folder), tool)
            found += _read_cubins(cubins, only, tool, jobs or len(os.sched_getaffinity(0)))
    only.refuse_nothing(found)
    return [kernel for kernel in found if only.keeps(kernel)]


def _read_cubins(cubins: Sequence[CubinFile], only: Filter, tool: Disassembler, jobs: int) -> list[MachineKernel]:
    shares = _shares(cubins, jobs)
    if len(shares) == 1:
        read = [read_share(shares[0], only, tool)]
    else:
        with ProcessPoolExecutor(max_workers=len(shares)) as pool:
            read = list(pool.map(read_share, shares, [only] * len(shares), [tool] * len(shares)))
    return [kernel for _, kernel in sorted((one for share in read for one in share), key=lambda pair: pair[0])]


Share = list[tuple[int, CubinFile]]


def _shares(cubins: Sequence[CubinFile], jobs: int) -> list[Share]:
    """Cubins with their places, dealt out to processes so that each has as many bytes; the largest first."""
    sizes = {place: cubin.path.stat().st_size for place, cubin in enumerate(cubins)}
    count = min(jobs, len(cubins)) if sum(sizes.values()) > ALONE_BYTES else 1
    shares: list[Share] = [[] for _ in range(count)]
    filled = [0] * count
    for place in sorted(sizes, key=lambda place: -sizes[place]):
        least = filled.index(min(filled))
        shares[least].append((place, cubins[place]))
        filled[least] += sizes[place]
    return [sorted(share, key=lambda pair: pair[0]) for share in shares]


def read_share(share: Share, only: Filter, tool: Disassembler) -> list[tuple[tuple[int, int], MachineKernel]]:
    """What one process reads: facts of its kernels by (cubin, kernel), decoded batch by batch."""
    decoders: dict[str, Decoder] = {}
    found: list[tuple[tuple[int, int], MachineKernel]] = []
    for batch in _batches(share, only):
        for arch in dict.fromkeys(kernel.arch for _, kernel in batch):
            own = [(place, kernel) for place, kernel in batch if kernel.arch == arch]
            decoder = decoders.setdefault(arch, Decoder(tool, arch))
            found += zip((place for place, _ in own), _facts([kernel for _, kernel in own], decoder))
    return found


def _facts(kernels: Sequence[Kernel], decoder: Decoder) -> Iterator[MachineKernel]:
    outlines = decoder.outlines([kernel.code for kernel in kernels])
    loops = [main_loops(outline) for outline in outlines]
    addresses = [sorted({one.address for loop in of_kernel for one in loop.body}) for of_kernel in loops]
    details = decoder.details(list(zip((kernel.code for kernel in kernels), addresses)))
    for kernel, outline, of_kernel, instructions in zip(kernels, outlines, loops, details):
        yield kernel_facts(kernel, outline, [loop.detailed(instructions) for loop in of_kernel])


def _batches(share: Share, only: Filter) -> Iterator[list[tuple[tuple[int, int], Kernel]]]:
    batch, held = [], 0
    for place, cubin in share:
        for number, kernel in enumerate(read_kernels(cubin)):
            if not only.may_keep(read_name(kernel.symbol, kernel.origin)):
                continue
            batch.append(((place, number), kernel))
            held += len(kernel.code)
            if held >= BATCH_BYTES:
                yield batch
                batch, held = [], 0
    if batch:
        yield batch
