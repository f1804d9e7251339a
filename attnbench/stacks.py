"""What a worker that says nothing is doing: its Python stacks, as faulthandler writes them at a signal.

They come from a signal handler in C, so that a process tells where it is even while a kernel hangs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from attnbench.paths import PACKAGE

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$')
# Parts of the paths of compilers' own modules: one of them is at work while such a frame is on a stack. Compilers that
# run as programs are waited for in `subprocess`.
_COMPILERS = re.compile(
    r"/torch/_(dynamo|inductor|functorch|export)/"
    r"|/torch/utils/cpp_extension\.py$"
    r"|/triton/(compiler|backends)/|/triton/runtime/(autotuner|build)\.py$"
    r"|/(numba|llvmlite|cutlass|tilelang|tvm|cupy|jax|jaxlib)/"
    r"|/subprocess\.py$"
)
# Frames of theirs that also stand below a compiled kernel while it runs.
_AT_RUN_TIME = re.compile(
    r"/torch/_dynamo/(eval_frame|external_utils|decorators)\.py$"
    r"|/torch/_inductor/(output_code|utils|cudagraph_trees|cudagraph_utils|standalone_compile)\.py$"
    r"|/torch/_inductor/runtime/(triton_heuristics|static_cuda_launcher)\.py$"
    r"|/torch/_functorch/(_aot_autograd/(runtime_wrappers|utils)|aot_autograd)\.py$"
    r"|/triton/backends/[^/]+/driver\.py$"
    r"|/(numba/core/dispatcher|jax/_src/(pjit|traceback_util|profiler|api))\.py$"
)
# Frames named in a reason, innermost first.
PLACES = 3


class Frame(NamedTuple):
    file: str
    line: str
    function: str


def frames(text: str) -> Iterator[Frame]:
    """All frames of a dump of stacks, innermost first, thread after thread."""
    for line in text.splitlines():
        found = _FRAME.match(line)
        if found:
            yield Frame(found["file"], found["line"], found["function"])


def is_compiling(text: str) -> bool:
    """Whether a compiler is at work on one of the stacks."""
    return any(_COMPILERS.search(frame.file) and not _AT_RUN_TIME.search(frame.file) for frame in frames(text))


def places(text: str) -> str:
    """Where it is, in files that are neither this package's own nor Python's, such as `own.py:3 mine < own.py:9 f`."""
    own = [frame for frame in frames(text) if not _is_harness(frame.file)]
    return " < ".join(f"{frame.file.rpartition('/')[2]}:{frame.line} {frame.function}" for frame in own[:PLACES])


def _is_harness(file: str) -> bool:
    package = str(PACKAGE)
    inside = file.startswith(package + "/") and not file.startswith(package + "/backends/")
    return (
        inside
        or file.startswith("<")
        or re.search(r"/lib/python3\.\d+/(?!site-packages|dist-packages)", file) is not None
    )
