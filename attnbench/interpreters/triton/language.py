"""Triton's language as the interpreters' session sees it: what is installed, one call with its conditions."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from attnbench.backend import Base, Call, Outputs, UnsupportedError
from attnbench.errors import UserError
from attnbench.interpreters.backend import Conditions, Ran

# Versions whose compiler's output this interpreter was held against (tests/interpreters/triton).
TRIED = ("3.6.0", "3.7.0", "3.7.1", "3.8.0", "3.9.0")
# Set to anything: other versions are interpreted too.
UNTRIED = "ATTNBENCH_UNTRIED_TRITON"
# Over how many processes a long launch is spread; not set: as many as torch has threads.
PROCESSES = "ATTNBENCH_INTERPRETER_PROCESSES"


class ProcessesError(UserError):
    """Not a number of processes; the message says what to give."""


def processes_asked() -> int | None:
    """None: nobody asked. Raises ProcessesError."""
    text = os.environ.get(PROCESSES, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ProcessesError(f"{PROCESSES}={text}: give a number of processes from 1 on; 1 spreads no launch")
    return int(text)


class CompileError(Exception):
    """A kernel that Triton's compiler refuses: why, and the line of its source."""

    @classmethod
    def of(cls, error: BaseException) -> CompileError:
        """By the innermost cause: Triton raises once more in every function that called the refused one."""
        line, why = "", str(error)
        cause: BaseException | None = error
        while cause is not None:
            source, node = getattr(cause, "src", None), getattr(cause, "node", None)
            if source and node is not None and hasattr(node, "lineno"):
                line = source.splitlines()[node.lineno - 1].strip()
            why = getattr(cause, "error_message", None) or (why if hasattr(cause, "src") else str(cause))
            cause = cause.__cause__
        return cls(f"Triton's compiler refuses the kernel: {why}" + (f" ({line})" if line else ""))


# What torch, Triton and the dynamic linker say where a GPU's driver or CUDA is missing.
NO_GPU = (
    "Torch not compiled with CUDA", "NVIDIA driver", "CUDA driver", "No CUDA GPUs", "libcuda", "libcudart",
    "active drivers", "'CUDA' backend", "dummy base class",
)  # fmt: skip


def wants_gpu(error: BaseException) -> bool:
    """Whether an exception says that something of a GPU is missing, and not that the kernel is wrong."""
    return any(words in str(error) for words in NO_GPU) or "torch._C._cuda" in str(error)


class TritonLanguage:
    name = module = "triton"

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.processes = processes_asked()

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        return package_version("triton")

    def unavailable(self) -> str | None:
        if self.version() not in TRIED and UNTRIED not in os.environ:
            return (
                f"Triton {self.version()} was not tried with this interpreter ({', '.join(TRIED)} were); "
                f"set {UNTRIED}=1 to judge with it all the same"
            )
        return None

    @functools.cached_property
    def interpreter(self):  # type: ignore[no-untyped-def]  # of a module that imports torch and triton
        import torch

        from attnbench.interpreters.triton.launch import install

        interpreter = install()
        interpreter.processes = self.processes or torch.get_num_threads()
        return interpreter

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        if self.unavailable() is not None:
            yield
            return
        from attnbench.interpreters.triton.stand_ins import gpu

        _ = self.interpreter
        with gpu(self.asked):
            yield

    def adapted(self, backend: Base) -> Base:
        return backend

    def called(self, call: Call, conditions: Conditions) -> tuple[Outputs, Ran]:
        from triton.compiler.errors import CompilationError

        from attnbench.interpreters.triton.launch import total
        from attnbench.interpreters.triton.numbers import NotInterpreted

        interpreter = self.interpreter
        interpreter.forget()
        interpreter.conditions = conditions
        try:
            with self.inside():
                outputs = call()
        except NotInterpreted as error:
            raise UnsupportedError(str(error)) from None
        except CompilationError as error:
            raise CompileError.of(error) from None
        except Exception as error:
            if not wants_gpu(error):
                raise
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedError(f"it needs a GPU's own software, for which nothing stands in: {first}") from None
        summed = total(interpreter.counts)
        tuned = max(interpreter.kernels, key=lambda name: len(interpreter.configs.get(name, ("",))), default="")
        return outputs, Ran(
            kernels=tuple(interpreter.kernels),
            undefined=frozenset(interpreter.undefined),
            read_bytes=summed.read_bytes,
            written_bytes=summed.written_bytes,
            dot_flops=summed.dot_flops,
            exponentials=summed.exponentials,
            reads=summed.read_of,
            stand_ins=tuple(sorted(self.asked)),
            config=interpreter.taken.get(tuned, ""),
            configs=len(interpreter.configs.get(tuned, ("",))),
            notes=tuple(
                f"{name}: its programs wait for each other through atomics, so no races were looked for"
                for name in sorted(interpreter.unordered & set(interpreter.kernels))
            ),
        )
