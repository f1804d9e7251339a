"""abi.h and its ctypes mirror agree, field by field and number by number, as the C compiler sees them."""
from __future__ import annotations

import ctypes
import re
import subprocess

import pytest

from attnbench import kernel_library
from attnbench.kernel_recipe import KERNELS
from attnbench.kernel_toolchain import find_host_compiler

HEADER = KERNELS / "include" / "attnbench" / "abi.h"
STRUCTS = {"AttnbenchForwardArgs": kernel_library.ForwardArgs, "AttnbenchVariant": kernel_library.VariantRow}


def c_values(tmp_path, expressions: list[str]) -> list[int]:
    """What a C program that includes abi.h prints for each expression."""
    prints = "\n".join(f'printf("%lld\\n", (long long)({expression}));' for expression in expressions)
    source = tmp_path / "values.c"
    source.write_text(f"#include <attnbench/abi.h>\n#include <stdio.h>\nint main(void) {{ {prints} return 0; }}\n")
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
    text = HEADER.read_text()
    body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", text, re.DOTALL).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    declared = re.findall(r"(\w+)(?:\[\d+\])?;", body)
    assert declared == [field for field, *_ in STRUCTS[name]._fields_]


def test_codes(tmp_path):
    codes = {"ATTNBENCH_ABI_VERSION": kernel_library.ABI_VERSION}
    codes |= {f"ATTNBENCH_DTYPE_{name.upper()}": code for name, code in kernel_library.DTYPES.items()}
    codes |= {f"ATTNBENCH_FLAG_{name.upper()}": bit for name, bit in kernel_library.FLAGS.items()}
    codes |= {f"ATTNBENCH_ACCUMULATOR_{name.upper()}": code for code, name in enumerate(kernel_library.ACCUMULATORS)}
    statuses = ("OK", "WORKSPACE_TOO_SMALL", "NO_DRIVER", "WRONG_ARCHITECTURE")
    codes |= {f"ATTNBENCH_{name}": getattr(kernel_library, name) for name in statuses}
    assert c_values(tmp_path, list(codes)) == list(codes.values())
    header_flags = set(re.findall(r"ATTNBENCH_FLAG_\w+", HEADER.read_text()))
    assert {name for name in codes if "FLAG" in name} == header_flags - {"ATTNBENCH_FLAG_"}
