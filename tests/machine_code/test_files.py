"""From files to kernels: what is read of real cubins, and a line for each file from which nothing can be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import ROOT

from attnbench.cli import main
from attnbench.errors import UserError
from attnbench.machine_code.cubin import read_kernels
from attnbench.machine_code.disassembler import ToolMissing
from attnbench.machine_code.encodings import OUTLINED, Decoder
from attnbench.machine_code.files import NoMachineCode, extract_cubins
from attnbench.machine_code.instructions import parse_sass
from attnbench.machine_code.only import Only
from attnbench.machine_code.read import read_files
from attnbench.machine_code.report import kernels_json


def kernels_of(file, tool, folder):
    (cubin,) = extract_cubins(file, folder, tool)
    return list(read_kernels(cubin)), cubin


def everything(decoder, code):
    (instructions,) = decoder.details([(code, range(0, len(code), 16))])
    return list(instructions.values())


@pytest.mark.parametrize("arch", ["hopper_cubin", "ampere_cubin"])
def test_code_decodes_as_the_disassembler_lists_it(arch, disassembler, tmp_path, request):
    """Each encoding once and without its scheduling bits, and yet the same listing, branches included."""
    kernels, cubin = kernels_of(request.getfixturevalue(arch), disassembler, tmp_path)
    decoder = Decoder(disassembler, cubin.arch)
    listed = parse_sass(disassembler.sass(cubin.path))
    assert {kernel.symbol for kernel in kernels} == set(listed) and len(listed) == 2
    for kernel in kernels:
        ours = everything(decoder, kernel.code)
        assert [one[:5] for one in ours] == [
            (one.address, one.predicate, one.opcode, one.operands.replace(".reuse", ""), one.name)
            for one in listed[kernel.symbol]
        ]
        called = {"CALL", "RET"} if kernel.symbol == "adds" else set()
        assert {"BRA", "EXIT", *called} <= {one.name for one in ours}
        (outline,) = decoder.outlines([kernel.code])
        assert [(one.address, one.name) for one in outline] == [(one.address, one.name) for one in ours]
        assert [one[:5] for one in outline if one.name in OUTLINED] == [one[:5] for one in ours if one.name in OUTLINED]


def test_scheduling_bits_are_those_of_the_encoding(hopper_cubin, disassembler, tmp_path):
    """cuobjdump prints the two halves of an encoding, the scheduling bits in the second."""
    kernels, cubin = kernels_of(hopper_cubin, disassembler, tmp_path)
    second = re.findall(r"^\s{60,}/\* 0x([0-9a-f]{16}) \*/$", disassembler.sass(cubin.path), re.MULTILINE)
    decoder = Decoder(disassembler, cubin.arch)
    ours = [one.control for kernel in kernels for one in everything(decoder, kernel.code)]
    assert sorted(ours) == sorted(int(word, 16) >> 41 & 0x1FFFFF for word in second)


@pytest.mark.parametrize("arch", ["hopper_cubin", "ampere_cubin"])
def test_registers_and_shared_memory_are_those_that_cuobjdump_tells(arch, disassembler, tmp_path, request):
    kernels, cubin = kernels_of(request.getfixturevalue(arch), disassembler, tmp_path)
    done = subprocess.run([disassembler.cuobjdump, "-res-usage", cubin.path], capture_output=True, text=True)
    told = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)", done.stdout)
    ours = {(one.symbol, str(one.registers), str(one.shared_bytes)) for one in kernels}
    assert ours == set(told) and len(told) == 2


def test_what_is_read_of_a_cubin(hopper_cubin, ampere_cubin):
    adds, multiplies = sorted(read_files([hopper_cubin]), key=lambda kernel: kernel.symbol)
    assert (adds.tensor_instructions, adds.loops, adds.threads) == (0, (), 128)
    assert (multiplies.symbol, multiplies.arch, multiplies.threads) == ("multiplies_bf16_d64", "sm_90a", 256)
    assert multiplies.compiler.startswith("ptxas ") and multiplies.registers > 8
    assert {shape for loop in multiplies.loops for shape in loop.tensor} == {"64x16x16"}
    for loop in multiplies.loops:
        # Two warpgroups, 8 clocks a product; nothing says of how many keys.
        assert loop.pipes.tensor == 2 * 8 * loop.tensor["64x16x16"]
        assert (loop.keys, loop.masked, loop.conditional_rescale, loop.spills) == (0, False, False, 0)
    (ampere,) = (kernel for kernel in read_files([ampere_cubin]) if kernel.loops)
    assert (ampere.arch, ampere.shared_bytes, ampere.warpgroups) == ("sm_80", 512, 1)
    assert all(loop.in_flight is None and loop.exposed is None for loop in ampere.loops)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-fatbin",), marks=pytest.mark.full),
        pytest.param(("-c",), marks=pytest.mark.full),
        ("-shared", "-cudart", "none"),
    ],
    ids=["fatbin", "object", "library"],
)
def test_every_kind_of_file_holds_the_same(options, compile_once, hopper_cubin, tmp_path):
    file = compile_once("sm_90a", *options)
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one/__init__.py", "")
        archive.write(shutil.which("true"), "one/plain.so")
        archive.write(file, f"one/{file.name}")
    expected = [(kernel.symbol, kernel.loops) for kernel in read_files([hopper_cubin])]
    assert [(kernel.symbol, kernel.loops) for kernel in read_files([file])] == expected
    found = read_files([file, wheel])
    assert [(kernel.symbol, kernel.loops) for kernel in found] == expected * 2
    assert {kernel.file for kernel in found} == {file.name, f"one.whl:one/{file.name}"}


def test_a_stripped_library_still_holds_its_kernels(compile_once, tmp_path):
    file = Path(shutil.copy(compile_once("sm_90a", "-shared", "-cudart", "none"), tmp_path))
    before = [kernel.symbol for kernel in read_files([file])]
    subprocess.run(["strip", file], check=True)
    assert [kernel.symbol for kernel in read_files([file])] == before


def without_sections(compile_once, cubin, folder):
    file = Path(shutil.copy(compile_once("sm_90a", "-shared", "-cudart", "none"), folder))
    content = bytearray(file.read_bytes())
    # e_shoff, e_shnum, e_shstrndx of an ELF-64 header.
    content[40:48], content[60:64] = bytes(8), bytes(4)
    file.write_bytes(content)
    return file


def truncated(compile_once, cubin, folder):
    file = folder / "half.cubin"
    file.write_bytes(cubin.read_bytes()[: cubin.stat().st_size // 2])
    return file


def other_architecture(compile_once, cubin, folder):
    return compile_once("sm_75")


def plain_library(compile_once, cubin, folder):
    return shutil.copy(shutil.which("true"), folder / "plain.so")


def text_file(compile_once, cubin, folder):
    (folder / "notes.txt").write_text("no code\n")
    return folder / "notes.txt"


def empty_file(compile_once, cubin, folder):
    (folder / "empty.so").touch()
    return folder / "empty.so"


def damaged_wheel(compile_once, cubin, folder):
    (folder / "cut.whl").write_bytes(b"PK\x03\x04 and no more")
    return folder / "cut.whl"


def plain_wheel(compile_once, cubin, folder):
    with zipfile.ZipFile(folder / "plain.whl", "w") as archive:
        archive.writestr("one/__init__.py", "")
    return folder / "plain.whl"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (without_sections, "stripped of its section table"),
        (truncated, "damaged: cuobjdump finds no code in it"),
        (other_architecture, "its GPU code is for sm_75; sm_80, sm_90, sm_90a can be read"),
        (plain_library, "no GPU code in it"),
        (text_file, "not a library, object, cubin, fatbin or wheel"),
        (empty_file, "not a library, object, cubin, fatbin or wheel"),
        (damaged_wheel, "a damaged wheel"),
        (plain_wheel, "no file in it holds GPU code"),
        (lambda compile_once, cubin, folder: folder / "absent.so", "no such file"),
        (lambda compile_once, cubin, folder: folder, "a folder; name the file in it"),
    ],
)
def test_a_line_for_each_file_from_which_nothing_can_be_read(make, says, compile_once, hopper_cubin, tmp_path):
    file = make(compile_once, hopper_cubin, tmp_path)
    with pytest.raises(NoMachineCode, match=re.escape(says)) as error:
        read_files([file])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_kernels_that_were_written_over_are_not_left_out_in_silence(hopper_cubin, tmp_path, monkeypatch):
    """cuobjdump gives cubins that were linked by nvcc their source's name, and writes one over the other."""
    import attnbench.machine_code.files as files

    asked = []

    def twice(tool, folder, *arguments):
        asked.append(arguments[0])
        if arguments[0] == "-xelf":
            (folder / "one.sm_90a.cubin").write_bytes(hopper_cubin.read_bytes())
            return "Extracting ELF file    1: one.sm_90a.cubin\nExtracting ELF file    2: one.sm_90a.cubin\n"
        return "".join(f" Function {name}:\n  REG:8\n" for name in there)

    monkeypatch.setattr(files, "_cuobjdump", twice)
    there = ["adds", "multiplies_bf16_d64"]
    assert len(read_files([hopper_cubin])) == 2 and asked == ["-xelf", "-res-usage"]
    there.append("gone")
    with pytest.raises(NoMachineCode, match="1 kernels stand in cubins of one name"):
        read_files([hopper_cubin])


def test_a_cubin_with_damaged_sections_is_named(hopper_cubin, disassembler, tmp_path):
    (cubin,) = extract_cubins(hopper_cubin, tmp_path, disassembler)
    content = bytearray(cubin.path.read_bytes())
    # e_shstrndx: the section that holds the sections' names.
    content[62:64] = b"\xff\x7f"
    cubin.path.write_bytes(content)
    with pytest.raises(NoMachineCode, match="a damaged cubin"):
        list(read_kernels(cubin))


def test_code_that_is_none_is_a_line(disassembler):
    with pytest.raises(UserError, match="nvdisasm cannot read this code as SM90a"):
        Decoder(disassembler, "sm_90a").outlines([b"\xff" * 16])


def test_without_a_disassembler_the_wheels_are_named(monkeypatch, hopper_cubin):
    import attnbench.machine_code.read as reading

    def nowhere():
        raise ToolMissing("no cuobjdump and no nvdisasm: pip install --no-deps nvidia-cuda-cuobjdump")

    monkeypatch.setattr(reading, "find_disassembler", nowhere)
    with pytest.raises(ToolMissing, match="pip install --no-deps nvidia-cuda-cuobjdump"):
        read_files([hopper_cubin])


def test_filters(hopper_cubin):
    assert [one.symbol for one in read_files([hopper_cubin], Only.parse(["head_dim=64", "dtype=bf16,fp16"]))] == [
        "multiplies_bf16_d64"
    ]
    assert [one.symbol for one in read_files([hopper_cubin], Only.parse(["name=adds"]))] == ["adds"]
    for asked, says in (
        ("head_dim=128", "keeps no kernel"),
        ("head=64", "keeps no kernel of"),
        ("d64", "not field=value"),
    ):
        with pytest.raises(UserError, match=says):
            read_files([hopper_cubin], Only.parse([asked]))


def test_json_has_the_keys_that_the_design_fixes(hopper_cubin):
    kernels = json.loads(kernels_json(read_files([hopper_cubin])))["kernels"]
    assert all({"name", "file", "arch", "registers", "spills", "shared_bytes", "loops"} <= set(one) for one in kernels)
    (loop, *_) = next(one["loops"] for one in kernels if one["loops"])
    assert set(loop) == {
        "masked", "keys", "instructions", "common_path", "tensor", "pipes", "exponentials", "exposed", "chain",
        "conditional_rescale", "spills", "limit",
    }  # fmt: skip
    assert set(loop["pipes"]) == {"tensor", "issue", "mufu", "alu", "fp32"}


def test_several_processes_read_what_one_reads(hopper_cubin, ampere_cubin, monkeypatch):
    import attnbench.machine_code.read as reading

    alone = read_files([hopper_cubin, ampere_cubin], jobs=1)
    monkeypatch.setattr(reading, "ALONE_BYTES", 0)
    with zipfile.ZipFile(hopper_cubin.parent / "both.whl", "w") as archive:
        archive.write(hopper_cubin, "hopper.cubin")
        archive.write(ampere_cubin, "ampere.cubin")
    together = read_files([hopper_cubin.parent / "both.whl"], jobs=2)
    assert [(one.symbol, one.loops) for one in together] == [(one.symbol, one.loops) for one in alone]


def test_the_reference_names_every_key(hopper_cubin):
    page = (ROOT / "docs" / "reference" / "machine-code.md").read_text()
    kernels = json.loads(kernels_json(read_files([hopper_cubin])))["kernels"]
    loops = [loop for kernel in kernels for loop in kernel["loops"]]
    keys = set(kernels[0]) | set(kernels[0]["spills"]) | set(loops[0]) | set(loops[0]["exponentials"])
    assert [key for key in sorted(keys | set(loops[0]["pipes"])) if f"`{key}`" not in page] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fwd_overlap", "{file}"], '"fwd_overlap" is no file; of our own kernels, name the library'),
        (["{file}", "--update"], "--update records our own kernels"),
        (["fwd_overlap", "--only", "head_dim=128"], "--only keeps kernels of files"),
        (["{file}", "--only", "head_dim=17"], "--only head_dim=17: keeps no kernel"),
        (["./absent.so"], "absent.so: no such file"),
    ],
)
def test_the_command_line_refuses_in_a_line(arguments, says, hopper_cubin):
    asked = [argument.replace("{file}", str(hopper_cubin)) for argument in arguments]
    done = CliRunner().invoke(main, ["kernels", "inspect", *asked])
    assert done.exit_code == 2 and says in done.output and "Traceback" not in done.output


def test_the_command_line_prints_a_table_and_json(hopper_cubin):
    table = CliRunner().invoke(main, ["kernels", "inspect", str(hopper_cubin)])
    assert (
        table.exit_code == 0
        and "multiplies_bf16_d64" in table.output
        and "products.cubin (sm_90a; ptxas" in table.output
    )
    assert "products.cubin: 1 kernel without a main loop that multiplies" in table.output
    told = CliRunner().invoke(main, ["kernels", "inspect", str(hopper_cubin), "--json"])
    assert told.exit_code == 0 and len(json.loads(told.output)["kernels"]) == 2
