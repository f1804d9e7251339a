"""abi.h, quantize_abi.h and their ctypes mirrors agree, field by field, as the C compiler sees them."""

from __future__ import annotations

import ctypes
import re
import subprocess

import pytest

from attnbench.hopper import library
from attnbench.hopper.toolchain import KERNELS, find_host_compiler

HEADERS = [KERNELS / "include" / "attnbench" / name for name in ("abi.h", "quantize_abi.h")]
HEADER = HEADERS[0]
STRUCTS = {
    "AttnbenchForwardArgs": library.ForwardArgs, "AttnbenchVariant": library.VariantRow,
    "AttnbenchQuantizeArgs": library.QuantizeArgs, "AttnbenchQuantizeVariant": library.QuantizeRow,
}  # fmt: skip


def c_values(tmp_path, expressions: list[str]) -> list[int]:
    """What a C program that includes both headers prints for each expression."""
    prints = "\n".join(f'printf("%lld\\n", (long long)({expression}));' for expression in expressions)
    source = tmp_path / "values.c"
    includes = "#include <attnbench/quantize_abi.h>\n#include <stdio.h>\n"
    source.write_text(f"{includes}int main(void) {{ {prints} return 0; }}\n")
    program = tmp_path / "values"
    command = [find_host_compiler(), "-x", "c", "-std=c99", "-Wall", "-Werror", "-pedantic", f"-I{KERNELS / 'include'}"]
    subprocess.run([*command, source, "-o", program], check=True)
    return [int(line) for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_layout(tmp_path, name):
    struct = STRUCTS[name]
    fields = [field for field, *_ in struct._fields_]
    expressions = [f"sizeof({name})"]
    expressions += [f"offsetof({name}, {field})" for field in fields]
    expressions += [f"sizeof((({name}*)0)->{field})" for field in fields]
    size, *rest = c_values(tmp_path, expressions)
    assert size == ctypes.sizeof(struct)
    assert rest[: len(fields)] == [getattr(struct, field).offset for field in fields]
    assert rest[len(fields) :] == [getattr(struct, field).size for field in fields]


@pytest.mark.parametrize("name", STRUCTS)
def test_no_field_is_missing(name):
    text = "".join(header.read_text() for header in HEADERS)
    body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", text, re.DOTALL).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    declared = re.findall(r"(\w+)(?:\[\d+\])?;", body)
    assert declared == [field for field, *_ in STRUCTS[name]._fields_]


def test_codes(tmp_path):
    codes = {"ATTNBENCH_ABI_VERSION": library.ABI_VERSION}
    codes |= {f"ATTNBENCH_DTYPE_{name.upper()}": code for name, code in library.DTYPES.items()}
    codes |= {f"ATTNBENCH_FLAG_{name.upper()}": bit for name, bit in library.FLAGS.items()}
    codes |= {f"ATTNBENCH_ACCUMULATOR_{name.upper()}": code for code, name in enumerate(library.ACCUMULATORS)}
    statuses = ("OK", "WORKSPACE_TOO_SMALL", "NO_DRIVER", "WRONG_ARCHITECTURE")
    codes |= {f"ATTNBENCH_{name}": getattr(library, name) for name in statuses}
    assert c_values(tmp_path, list(codes)) == list(codes.values())
    header_flags = set(re.findall(r"ATTNBENCH_FLAG_\w+", HEADER.read_text()))
    assert {name for name in codes if "FLAG" in name} == header_flags - {"ATTNBENCH_FLAG_"}


def test_codes_of_the_quantizer(tmp_path):
    codes = {"ATTNBENCH_QUANTIZE_ABI_VERSION": library.QUANTIZE_ABI_VERSION}
    codes |= {f"ATTNBENCH_SCALING_{name.upper()}": code for name, code in library.SCALINGS.items()}
    codes |= {"ATTNBENCH_QUANTIZE_TILE": library.TILE_TOKENS}
    codes |= {"ATTNBENCH_VALUE_GROUP": library.VALUE_GROUP}
    assert c_values(tmp_path, list(codes)) == list(codes.values())
    in_header = set(re.findall(r"ATTNBENCH_SCALING_\w+", HEADERS[1].read_text()))
    assert in_header == {name for name in codes if "SCALING" in name}
