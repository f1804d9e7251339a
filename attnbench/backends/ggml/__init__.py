"""ggml's flash attention on the CPU (`ggml_flash_attn_ext`), what llama.cpp and whisper.cpp run.

q is fp32 there and so is the output: `prepare` widens q, and the call rounds the output. k and v are read where they
are.
"""

from __future__ import annotations

import ctypes

from attnbench.backend import Call, Inputs, LibraryBackend, UnsupportedError, beyond
from attnbench.backends.ggml.graph import attention_call
from attnbench.backends.ggml.library import EXTENSIONS, LIBRARY, PARTS, TYPES, files, load
from attnbench.case import Case
from attnbench.machine.host import cpu_flags


class Ggml(LibraryBackend):
    name = "ggml"
    library = LIBRARY
    keeps_memory = True
    copies_inputs = True

    def version(self) -> str:
        """ggml's own, as its file says it, and the wheel's."""
        file = files().get("base")
        return f"ggml {file.name.partition('.so.')[2]} ({LIBRARY.version()})" if file else LIBRARY.version()

    def unavailable(self) -> str | None:
        reason = super().unavailable()
        if reason is None and (missing := [part for part in PARTS if part not in files()]):
            return (
                f"the installed pywhispercpp carries no libggml-{missing[0]}; its wheels for Linux do: "
                f"pip install --force-reinstall --only-binary :all: pywhispercpp=={LIBRARY.tested}"
            )
        return reason

    def unsupported(self, case: Case) -> str | None:
        return beyond(case, TYPES, takes=("mask_alignment", "kv_dtype"))

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        libraries = load()
        missing = lacking_instructions(libraries["cpu"])
        if missing:
            raise UnsupportedError(f"this wheel's ggml was compiled for CPUs with {missing}, which this one lacks")
        return attention_call(case, inputs, libraries)


def lacking_instructions(cpu: ctypes.CDLL) -> str:
    """The extensions that libggml-cpu was compiled for and this CPU lacks; "" where it has all, or does not say.

    Only functions that return constants are called, which run on any CPU.
    """
    flags = cpu_flags()
    compiled = [name for name in EXTENSIONS if flags and getattr(cpu, f"ggml_cpu_has_{name}")()]
    return ", ".join(name for name in compiled if EXTENSIONS[name] not in flags)


BACKENDS = (Ggml(),)
