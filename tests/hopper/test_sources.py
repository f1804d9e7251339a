"""Rules for the CUDA sources that no compiler checks: where inline assembly stands, what both builds must share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paths import ROOT

KERNELS = ROOT / "kernels"
INCLUDE = KERNELS / "include" / "attnbench"
PRIMITIVES = sorted((INCLUDE / "ptx").glob("*.cuh"))
EMULATED = KERNELS / "emulation" / "include" / "attnbench" / "ptx"
FORWARD_FILES = sorted(KERNELS.glob("fwd_*.cu"))
KERNEL_FILES = [*FORWARD_FILES, KERNELS / "quantize.cu"]
# What both builds compile, in whatever folder it lies; not the C interface and the twins of the emulation.
OWN_RULES = ("abi.h", "quantize_abi.h", "validate.h", "host.h", "device.cuh")
SHARED_HEADERS = sorted(
    path
    for path in INCLUDE.rglob("*")
    if path.suffix in (".h", ".cuh") and path.parent.name != "ptx" and path.name not in OWN_RULES
)
# The many-N bodies of one instruction; every other primitive header has one asm statement a function.
OPERAND_LISTS = "wgmma_shapes.cuh"

MAX_KERNEL_LINES = 500
MAX_FUNCTION_LINES = 40
MAX_LINE_WIDTH = 120


def code(text: str) -> str:
    """The text without comments, line numbers kept."""
    return re.sub(r"//[^\n]*", "", text)


def asm_lines(text: str) -> list[int]:
    return [n for n, line in enumerate(code(text).splitlines(), 1) if re.search(r"\b(__)?asm(__)?\b", line)]


# Around an instruction: names for predicates and halves of a register, and moving them to where C++ can see them. Of a
# special register (%%) that is the instruction.
GLUE = re.compile(r"\.reg|mov(?!.*%%)|setp|selp")
_ASM_TEXT = re.compile(r"\basm\s*(?:volatile)?\s*\(((?:\s*\"(?:[^\"\\]|\\.)*\")+)")


def instructions(text: str) -> set[str]:
    """Opcodes of the PTX in the asm statements of a text, but for GLUE."""
    found = set()
    for literals in _ASM_TEXT.findall(code(text)):
        ptx = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals)).replace("\\n", " ")
        found |= {line.strip(" {}") for line in ptx.split(";") if line.strip(" {}")}
    return {line.split()[0] for line in found if not GLUE.match(line)}


def functions(text: str) -> list[tuple[str, str, int]]:
    """(name, text, first line) of each function that begins and ends at column 0."""
    found = []
    lines = [line.rstrip() for line in code(text).splitlines()]
    start = None
    for number, line in enumerate(lines):
        if start is None and line and not line[0].isspace() and "(" in line and not line.startswith(("#", "}")):
            start = number
        if start is not None and (line.startswith("}") or (number == start and line.endswith("}"))):
            body = "\n".join(lines[start : number + 1])
            name = re.search(r"(\w+)\s*\(", re.sub(r"ATTNBENCH_KERNEL\([^)]*\)|__\w+__\([^)]*\)", "", body))
            found.append((name.group(1) if name else "", body, start + 1))
            start = None
        elif start is not None and line.endswith(";") and "{" not in "\n".join(lines[start : number + 1]):
            start = None
    return found


def declared_primitives(text: str) -> set[str]:
    """Names of the ATTNBENCH_DEVICE functions of a header."""
    return set(re.findall(r"^ATTNBENCH_DEVICE [\w:<>&*\s]*?\b(\w+)\(", code(text), re.MULTILINE))


def test_there_is_something_to_check() -> None:
    assert len(FORWARD_FILES) >= 4
    assert len(PRIMITIVES) >= 10


@pytest.mark.parametrize("path", [*KERNEL_FILES, *SHARED_HEADERS, INCLUDE / "device.cuh"], ids=lambda p: p.name)
def test_inline_assembly_stands_in_the_primitives_only(path: Path) -> None:
    assert asm_lines(path.read_text()) == []


def test_no_inline_assembly_elsewhere_in_the_headers() -> None:
    elsewhere = [p for p in INCLUDE.rglob("*") if p.is_file() and p.parent.name != "ptx" and asm_lines(p.read_text())]
    assert elsewhere == []


@pytest.mark.parametrize("path", [p for p in PRIMITIVES if p.name != OPERAND_LISTS], ids=lambda p: p.name)
def test_a_primitive_is_one_instruction(path: Path) -> None:
    found = functions(path.read_text())
    assert found
    for name, body, line in found:
        assert len(asm_lines(body)) <= 1, f"{path.name}:{line} {name}"
        assert len(instructions(body)) == len(asm_lines(body)), f"{path.name}:{line} {name}: {instructions(body)}"


@pytest.mark.parametrize("path", [p for p in PRIMITIVES if p.name != OPERAND_LISTS], ids=lambda p: p.name)
def test_a_primitive_with_effects_takes_its_call_site(path: Path) -> None:
    """Reports and mutations of the emulation name the kernel's line."""
    for name, body, line in functions(path.read_text()):
        if "asm volatile" in body:
            assert "Where" in body, f"{path.name}:{line} {name}"


@pytest.mark.parametrize("path", [p for p in PRIMITIVES if p.name != OPERAND_LISTS], ids=lambda p: p.name)
def test_every_primitive_exists_in_the_emulation(path: Path) -> None:
    names = declared_primitives(path.read_text())
    assert names
    emulated = code((EMULATED / path.name).read_text())
    missing = {name for name in names if not re.search(rf"\b{name}\s*\(", emulated)}
    assert missing == set()


@pytest.mark.parametrize("path", [*KERNEL_FILES, *SHARED_HEADERS], ids=lambda p: p.name)
def test_both_builds_compile_the_same_text(path: Path) -> None:
    """No conditional compilation, but for the host/device decoration of constexpr functions in layout.cuh."""
    conditions = re.findall(r"^#\s*if\w*\s+(.*)$", code(path.read_text()), re.MULTILINE)
    assert conditions == (["__CUDACC__"] if path.name == "layout.cuh" else [])


@pytest.mark.parametrize("path", [*KERNEL_FILES, *SHARED_HEADERS], ids=lambda p: p.name)
def test_no_way_out_of_a_wgmma_region(path: Path) -> None:
    """A trap, an assert or a print between wgmma makes ptxas spill and serialize (C7512)."""
    assert re.findall(r"\b(?:__trap|assert|printf|__noinline__)\b", code(path.read_text())) == []


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda p: p.name)
def test_a_kernel_file_keeps_its_order(path: Path) -> None:
    text = path.read_text()
    marks = ["// Forward attention", "#include", "struct Config", "void forward(", "#define VARIANTS(V)",
             "ATTNBENCH_FORWARD_LIBRARY(VARIANTS)"]  # fmt: skip
    if path not in FORWARD_FILES:
        marks = ["// Quantization", "#include", "struct Config", "struct SharedStorage", "void quantize(",
                 "launch_config(", "#define VARIANTS(V)", "attnbench_quantize_launch"]  # fmt: skip
    places = [text.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)
    assert places[0] == 0


@pytest.mark.parametrize("path", [*KERNEL_FILES, *SHARED_HEADERS, *PRIMITIVES], ids=lambda p: p.name)
def test_sizes_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_KERNEL_LINES
    if path.name != OPERAND_LISTS:
        assert max(map(len, text.splitlines())) <= MAX_LINE_WIDTH
    long = [(name, line) for name, body, line in functions(text) if len(body.splitlines()) > MAX_FUNCTION_LINES]
    if path.name != "fwd_simple.cu":  # whose one function is meant to be read from top to bottom
        assert long == []


def test_the_checks_see_what_they_look_for() -> None:
    text = (
        'ATTNBENCH_DEVICE void one(int a,\n                          Where = X) {\n  asm volatile("a;");\n}\n'
        'ATTNBENCH_DEVICE void two() { asm("b;"); }  // asm\n// asm in a comment\n'
    )
    assert asm_lines(text) == [3, 5]
    assert [(name, line) for name, _, line in functions(text)] == [("one", 1), ("two", 5)]
    assert declared_primitives(text) == {"one", "two"}
    pair = 'asm("{\\n.reg .pred p;\\ncvt.rn %0, %1;\\n" "cvt.rn %2, %3;\\nselp.u32 %0, 1, 0, p;\\n}" : "=r"(x));'
    assert instructions(pair) == {"cvt.rn"}
    assert instructions(pair + ' asm volatile("bar.sync 0;");') == {"cvt.rn", "bar.sync"}
    assert instructions('asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(x)); asm("mov.b32 %0, %1;");') == {"mov.u32"}
