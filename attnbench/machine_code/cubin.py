"""A cubin: an ELF file with a section of machine code for each kernel, and what its attributes say of the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attnbench.machine_code.files import CubinFile, NoMachineCode

# Attributes of a kernel in the sections .nv.info and .nv.info.KERNEL: NVIDIA prints their names with cuobjdump -elf.
_EIATTR_MAX_THREADS = 0x05
_EIATTR_REQNTID = 0x10
_EIATTR_REGCOUNT = 0x2F
# Form in which an attribute's value of any length follows; the other forms hold theirs in two bytes.
_EIFMT_SVAL = 0x04


@dataclass(frozen=True)
class Kernel:
    """One kernel of a cubin before its code is decoded.

    registers: per thread at entry. shared_bytes: static; what a launch asks for beyond it stands in no file.
    threads: of a CTA at most, 0 where the code does not say. compiler: the ptxas that made it, "" where none is noted.
    """

    symbol: str
    arch: str
    origin: str
    registers: int
    shared_bytes: int
    threads: int
    compiler: str
    code: bytes


def read_kernels(cubin: CubinFile) -> Iterator[Kernel]:
    """The kernels of a cubin in the order of its sections. Raises NoMachineCode for a damaged one."""
    from elftools.common.exceptions import ELFError
    from elftools.construct.core import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        with cubin.path.open("rb") as stream:
            elf = ELFFile(stream)
            sections = {section.name: section for section in elf.iter_sections()}
            registers = _registers(sections)
            compiler = _compiler(sections)
            for name, section in sections.items():
                symbol = name.removeprefix(".text.")
                # Device functions that are called, not launched, have no attributes of a kernel.
                if symbol == name or f".nv.info.{symbol}" not in sections:
                    continue
                shared = sections.get(f".nv.shared.{symbol}")
                yield Kernel(
                    symbol=symbol,
                    arch=cubin.arch,
                    origin=cubin.origin,
                    registers=registers.get(symbol, 0),
                    shared_bytes=shared["sh_size"] if shared is not None else 0,
                    threads=_threads(sections[f".nv.info.{symbol}"].data()),
                    compiler=compiler,
                    code=section.data(),
                )
    except (ELFError, ConstructError, UnicodeDecodeError, IndexError, KeyError, AttributeError) as error:
        raise NoMachineCode(f"{cubin.origin}: a damaged cubin ({error or type(error).__name__})") from None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, value) of a .nv.info section."""
    at = 0
    while at + 4 <= len(data):
        form, attribute = data[at], data[at + 1]
        value = data[at + 2 : at + 4]
        at += 4
        if form == _EIFMT_SVAL:
            length = int.from_bytes(value, "little")
            value = data[at : at + length]
            at += length
        yield attribute, value


def _threads(info: bytes) -> int:
    found = dict(_attributes(info))
    value = found.get(_EIATTR_REQNTID, found.get(_EIATTR_MAX_THREADS, b""))
    x, y, z = (int.from_bytes(value[at : at + 4], "little") for at in (0, 4, 8))
    return x * max(y, 1) * max(z, 1)


def _registers(sections: dict[str, Any]) -> dict[str, int]:
    """Registers per thread of each kernel: pairs of a symbol's index and a count."""
    info, symbols = sections.get(".nv.info"), sections.get(".symtab")
    if info is None or symbols is None:
        return {}
    found = {}
    for attribute, value in _attributes(info.data()):
        if attribute == _EIATTR_REGCOUNT:
            symbol = symbols.get_symbol(int.from_bytes(value[:4], "little"))
            found[symbol.name] = int.from_bytes(value[4:8], "little")
    return found


def _compiler(sections: dict[str, Any]) -> str:
    """As ptxas of CUDA 13 notes itself; earlier ones write no such note."""
    note = sections.get(".note.nv.tkinfo")
    if note is None:
        return ""
    found = re.search(rb"(\w+)\0[^\0]*release [\d.]+, V([\d.]+)", note.data())
    return f"{found[1].decode()} {found[2].decode()}" if found else ""
