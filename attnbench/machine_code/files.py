"""Which cubins a file holds: libraries, objects, fatbins, cubins, and wheels with any of them inside."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UserError
from attnbench.machine_code.disassembler import Disassembler

# Architectures whose machine code is read; sm_90 and sm_90a differ in what may be used, not in how it is encoded.
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a")

_ZIP = b"PK\x03\x04"
_ELF = b"\x7fELF"
# Fat binary as nvcc -fatbin writes it: the little-endian word 0xba55ed50.
_FATBIN = b"\x50\xed\x55\xba"
# Files of a wheel that may hold GPU code; a library's name may end in its version (libx.so.1).
_MEMBER = re.compile(r"\.(so(\.\d+)*|cubin|fatbin|o)$")
# ELF section in which nvcc puts GPU code; its name stands in the section table.
_FATBIN_SECTION = b".nv_fatbin"
_EXTRACTED = re.compile(r"\.(?P<number>\d+)?\.?(?P<arch>sm_\d+[af]?)\.cubin$")
# Place of the number of sections in an ELF-64 header (e_shnum; System V ABI, ELF header).
_SECTION_COUNT_AT = 60


class NoMachineCode(UserError, ValueError):
    """A file from which no machine code can be read; the message names it and says why."""


@dataclass(frozen=True)
class CubinFile:
    """One cubin on disk. origin: the file that was asked about, and of a wheel its member too."""

    path: Path
    arch: str
    origin: str


def extract_cubins(file: Path, folder: Path, tool: Disassembler) -> list[CubinFile]:
    """All cubins of a file for the architectures that are read, written into `folder`.

    Raises NoMachineCode for a file that is none of the known kinds, is damaged, or holds no such code.
    """
    if not file.is_file():
        raise NoMachineCode(f"{file}: {'a folder; name the file in it' if file.is_dir() else 'no such file'}")
    head = _first_bytes(file)
    if head == _ZIP:
        found = list(_from_wheel(file, folder, tool))
        if not found:
            raise NoMachineCode(f"{file}: no file in it holds GPU code")
    elif head in (_ELF, _FATBIN):
        found = _extract(file, file.name, folder, tool)
        if not found:
            raise NoMachineCode(f"{file}: {_why_nothing(file)}")
    else:
        raise NoMachineCode(f"{file}: not a library, object, cubin, fatbin or wheel")
    wanted = [one for one in found if one.arch in ARCHITECTURES]
    if not wanted:
        there = ", ".join(sorted({one.arch for one in found}))
        raise NoMachineCode(f"{file}: its GPU code is for {there}; {', '.join(ARCHITECTURES)} can be read")
    return wanted


def _first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(4)
    except OSError as error:
        raise NoMachineCode(f"{file}: {error.strerror}") from None


def _from_wheel(file: Path, folder: Path, tool: Disassembler) -> Iterator[CubinFile]:
    try:
        with zipfile.ZipFile(file) as wheel:
            members = [name for name in wheel.namelist() if _MEMBER.search(name)]
            for number, name in enumerate(members):
                # NOTE: never under its own name, which could lead out of the folder.
                place = folder / f"member{number}"
                place.mkdir()
                held = place / Path(name).name
                with wheel.open(name) as source, held.open("wb") as target:
                    while block := source.read(1 << 20):
                        target.write(block)
                if _may_hold_gpu_code(held):
                    yield from _extract(held, f"{file.name}:{name}", place, tool)
                held.unlink()
    except (zipfile.BadZipFile, EOFError) as error:
        raise NoMachineCode(f"{file}: a damaged wheel ({error})") from None


def _may_hold_gpu_code(file: Path) -> bool:
    """Whether a member is worth asking cuobjdump about; a wheel may hold many plain libraries."""
    if file.stat().st_size == 0:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return file.suffix in (".cubin", ".fatbin") or content.find(_FATBIN_SECTION) >= 0


def _extract(file: Path, origin: str, folder: Path, tool: Disassembler) -> list[CubinFile]:
    """NOTE: cuobjdump exits with 0 on a file without GPU code and on a damaged one; what it wrote is the answer."""
    into = folder / "cubins"
    into.mkdir(exist_ok=True)
    said = _cuobjdump(tool, into, "-xelf", "all", str(file.resolve()))
    if said.count("Extracting ELF file") > len(list(into.iterdir())):
        _refuse_lost(origin, into, _cuobjdump(tool, into, "-res-usage", str(file.resolve())))
    found = []
    for cubin in into.iterdir():
        if name := _EXTRACTED.search(cubin.name):
            found.append((int(name["number"] or 0), CubinFile(cubin, name["arch"], origin)))
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].path.name))]


def _cuobjdump(tool: Disassembler, folder: Path, *arguments: str) -> str:
    path = os.pathsep.join((str(tool.nvdisasm.parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path}
    command = [str(tool.cuobjdump), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def _refuse_lost(origin: str, into: Path, usage: str) -> None:
    """Where cubins of one name were written over each other: raises NoMachineCode unless every kernel is there."""
    contents = [cubin.read_bytes() for cubin in into.iterdir()]
    kernels = re.findall(r"Function (\S+):", usage)
    lost = [name for name in kernels if not any(f".text.{name}\0".encode() in content for content in contents)]
    if lost:
        raise NoMachineCode(
            f"{origin}: {len(lost)} kernels stand in cubins of one name, of which cuobjdump extracts one; "
            "name the object files that it was linked from"
        )


def _why_nothing(file: Path) -> str:
    content = file.read_bytes() if file.stat().st_size < 1 << 31 else b""
    if content[:4] == _ELF and content[_SECTION_COUNT_AT : _SECTION_COUNT_AT + 2] == b"\0\0":
        return "stripped of its section table, without which its GPU code cannot be found; take it as it was built"
    # e_machine at 18: 190 is EM_CUDA, a cubin by itself.
    if (content[:4] == _ELF and int.from_bytes(content[18:20], "little") == 190) or content[:4] == _FATBIN:
        return "damaged: cuobjdump finds no code in it"
    return "no GPU code in it"
