"""ggml's C functions, from the libraries that the wheel of pywhispercpp carries: libggml-base and libggml-cpu.

Declared are functions with opaque handles only, and one struct of three members: nothing depends on how ggml lays out
its tensors. include/ggml.h, ggml-backend.h and ggml-cpu.h of ggml 0.13.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

from attnbench.machine.libraries import Library

LIBRARY = Library("pywhispercpp", "pywhispercpp", "1.5.1")
# include/ggml.h, enum ggml_type, by our names.
TYPES = {"fp16": 1, "bf16": 30, "fp32": 0}
SUCCESS = 0  # enum ggml_status
PARTS = ("base", "cpu")
# Extensions that libggml-cpu may be compiled for, by its names, and the kernel's names of them.
EXTENSIONS = {
    "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi2": "bmi2", "avx_vnni": "avx_vnni",
    "avx512": "avx512f", "avx512_vbmi": "avx512_vbmi", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
}  # fmt: skip


class InitParams(ctypes.Structure):
    """struct ggml_init_params. no_alloc: a context holds descriptions of tensors, not their numbers."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


POINTER, INT, LONG, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
# Results and arguments of what is called.
FUNCTIONS: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "base": {
        "ggml_version": (ctypes.c_char_p, ()),
        "ggml_init": (POINTER, (InitParams,)),
        "ggml_free": (None, (POINTER,)),
        "ggml_new_tensor_4d": (POINTER, (POINTER, INT, LONG, LONG, LONG, LONG)),
        "ggml_permute": (POINTER, (POINTER, POINTER, INT, INT, INT, INT)),
        "ggml_flash_attn_ext": (POINTER, (POINTER, POINTER, POINTER, POINTER, POINTER, FLOAT, FLOAT, FLOAT)),
        "ggml_new_graph": (POINTER, (POINTER,)),
        "ggml_build_forward_expand": (None, (POINTER, POINTER)),
        "ggml_backend_cpu_buffer_from_ptr": (POINTER, (POINTER, ctypes.c_size_t)),
        "ggml_backend_buffer_free": (None, (POINTER,)),
        "ggml_backend_tensor_alloc": (INT, (POINTER, POINTER, POINTER)),
        "ggml_backend_graph_compute": (INT, (POINTER, POINTER)),
        "ggml_backend_free": (None, (POINTER,)),
    },
    "cpu": {
        "ggml_backend_cpu_init": (POINTER, ()),
        "ggml_backend_cpu_set_n_threads": (None, (POINTER, INT)),
        **{f"ggml_cpu_has_{name}": (INT, ()) for name in EXTENSIONS},
    },
}  # fmt: skip


def files() -> dict[str, Path]:
    """The wheel's libraries by part, those that it has. Imports and loads nothing."""
    spec = importlib.util.find_spec(LIBRARY.module)
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent.parent / f"{LIBRARY.distribution}.libs"
    found = {part: next(iter(sorted(folder.glob(f"libggml-{part}-*.so*"))), None) for part in PARTS}
    return {part: file for part, file in found.items() if file is not None}


@functools.cache
def load() -> dict[str, ctypes.CDLL]:
    """Both libraries with their functions declared."""
    from attnbench.machine.threads import on_every_cpu

    with on_every_cpu():  # the wheel's own OpenMP finds out, as it is loaded, on which CPUs it may run
        loaded = {part: ctypes.CDLL(str(file)) for part, file in files().items()}
    for part, functions in FUNCTIONS.items():
        for name, (result, arguments) in functions.items():
            function = getattr(loaded[part], name)
            function.restype, function.argtypes = result, arguments
    return loaded
