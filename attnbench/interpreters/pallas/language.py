"""Pallas as the interpreters' session sees it: what is installed, one call with its conditions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from attnbench.backend import Base, Call, HazardError, Outputs
from attnbench.interpreters.backend import Conditions, Ran
from attnbench.interpreters.pallas.arrays import is_jitted, on_jax_arrays, torch_results

# Versions of jax whose interpreters were held against what they should do (tests/interpreters/test_pallas_judged.py).
TRIED = ("0.10.2", "0.12.0.1")
# Set to anything: other versions are used too.
UNTRIED = "ATTNBENCH_UNTRIED_JAX"
# What jax reads while it is imported, and XLA when it begins: kernels run on the CPU, an error's traceback shows where
# it came from, and a kernel is compiled fast rather than well, since most of the time is the compiler's.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_TRACEBACK_FILTERING": "off",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


class PallasLanguage:
    """mode: "hlo", a kernel as XLA operations, one program after the other; "tpu", a TPU's memories, copies and
    semaphores simulated. asked: the mode was named, so that jax is imported even where no plugin does."""

    name = "pallas"
    module = "jax.experimental.pallas"

    def __init__(self, mode: str = "hlo", asked: bool = False):
        self.mode, self.asked = mode, asked

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        return package_version("jax")

    def unavailable(self) -> str | None:
        if self.version() not in TRIED and UNTRIED not in os.environ:
            return (
                f"jax {self.version()} was not tried with these interpreters ({', '.join(TRIED)} were); "
                f"set {UNTRIED}=1 to judge with it all the same"
            )
        return None

    @functools.cached_property
    def launches(self):  # type: ignore[no-untyped-def]  # of a module that imports jax
        from attnbench.interpreters.pallas.launch import install

        return install()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What jax reads when it is imported is set; jax itself is not imported."""
        added = [name for name in ENVIRONMENT if name not in os.environ]
        os.environ.update({name: ENVIRONMENT[name] for name in added})
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)

    def adapted(self, backend: Base) -> Base:
        """A function that `jax.jit` made is given arrays of jax."""
        function = getattr(backend, "function", None)
        if is_jitted(function) and dataclasses.is_dataclass(backend):
            return dataclasses.replace(backend, function=on_jax_arrays(function))
        return backend

    def called(self, call: Call, conditions: Conditions) -> tuple[Outputs, Ran]:
        with self.inside():
            if "jax" in sys.modules or self.asked:
                return self.interpreted(call, conditions)
            try:
                outputs = call()
            except Exception:
                if "jax" not in sys.modules:
                    raise
            else:
                if "jax" not in sys.modules:
                    return outputs, Ran()
            return self.interpreted(call, conditions)  # it imported jax: once more, as jax's interpreters run it

    def interpreted(self, call: Call, conditions: Conditions) -> tuple[Outputs, Ran]:
        from attnbench.interpreters.pallas.failures import explained, hazard_told
        from attnbench.interpreters.pallas.switches import interpreting, reset, settings

        launches = self.launches
        launches.forget()
        try:
            with interpreting(self.mode, launches, conditions):
                outputs = as_torch(call())
                sys.modules["jax"].effects_barrier()  # what callbacks count is counted
        except Exception as error:
            reset()
            raise explained(error, self.mode, launches.kernels, launches.raised) from None
        if launches.told:
            raise HazardError(hazard_told(launches.kernels, launches.told))
        kernels = tuple(launches.kernels)
        undefined = frozenset[str]().union(*(launches.undefined.get(name, ()) for name in kernels))
        tally = launches.tally
        uncounted = {name: tally.uncounted[name] for name in sorted(tally.uncounted.keys() & set(kernels))}
        return outputs, Ran(
            kernels=kernels,
            undefined=undefined,
            read_bytes=tally.read_bytes,
            written_bytes=tally.written_bytes,
            dot_flops=tally.dot_flops,
            exponentials=tally.exponentials,
            counted=not uncounted,
            stand_ins=tuple(sorted(launches.asked)),
            notes=tuple(f"{name}: its traffic was not counted: {why}" for name, why in uncounted.items()),
            settings=settings(self.mode),
        )


def as_torch(outputs: Outputs) -> Outputs:
    """Its arrays of jax as tensors, once they are computed."""
    values: Mapping[str, Any] = {
        name: torch_results(getattr(outputs, name)) for name in ("out", "lse", "dq", "dk", "dv")
    }
    return Outputs(**values)
