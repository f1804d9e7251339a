"""The inputs and references of one case, made when first needed and shared by all its backends."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Base, Inputs, Outputs
from attnbench.case import Case
from attnbench.correctness.fp8_sources import drawn_oracle, rmse_drawn, source_errors
from attnbench.correctness.judge import judge
from attnbench.correctness.probes import RECHECK_SET
from attnbench.correctness.rounding import make_budgets
from attnbench.machine.facts import available_memory_bytes
from attnbench.records.measurement import PrepTiming
from attnbench.records.record import RELATIVE_RMSE, Accuracy
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.inputs import checksums, in_place_of, input_bytes, make_inputs, written
from attnbench.reference.key_order import keys_may_move, move_keys
from attnbench.reference.oracle import Reference, make_reference
from attnbench.reference.quantize import overflowed
from attnbench.settings import Checks, Timing
from attnbench.timing.sampling import Unwatched, Watch
from attnbench.worker.ceilings import Ceilings
from attnbench.worker.integrity import Integrity
from attnbench.worker.phases import ALIVE_EVERY_S, Phases

if TYPE_CHECKING:
    from torch import Tensor


# What of the device's memory a case may plan to use; the rest is the allocator's and other programs'.
MEMORY_SHARE = 0.8
# Of a problem's secret seed.
SEED_BITS = 62


class Problem:
    """The inputs and references of one case, made when first needed and shared by all its backends."""

    def __init__(
        self, case: Case, device: str, checks: Checks, timing: Timing, cache_bytes: int, phases: Phases,
        bits: str | None = None, watch: Watch | None = None, seed: int | None = None,
        ceilings: Ceilings | None = None, integrity: Integrity | None = None,
    ):  # fmt: skip
        """bits: a folder where the outputs of another process lie, or are to be left for one. watch: of the machine.
        seed: of what a kernel must not know beforehand; None: drawn. ceilings: of the device's rates, shared by all.
        integrity: of what judges, looked at after each step of a backend; None where no plugin was imported."""
        self.integrity = integrity
        self.ceilings = ceilings or Ceilings(device, cache_bytes)
        self.seed = secrets.randbits(SEED_BITS) if seed is None else seed
        self.case, self.device, self.checks, self.timing, self.bits = case, device, checks, timing, bits
        self.watch = watch or Unwatched()
        self.cache_bytes, self.phases = cache_bytes, phases
        phases.alive_every_s = min(ALIVE_EVERY_S, timing.timeout_s / 4)
        self._reference: Reference | None = None
        self._fresh: Reference | None = None
        self._spot: Reference | None = None
        self._checksums: list[int] = []
        self._overflow: str | None = None
        self._sources: tuple[Tensor, Mapping[str, float]] | None = None
        self.reference_prep: PrepTiming | None = None  # the reference quantizer's time, taken once for all backends
        self.posed: dict[tuple[Case, int], Reference] = {}  # what probes pose at this case's shape; see `context`

    @property
    def reference(self) -> Reference:
        if self._reference is None:
            with self.phases("inputs"):
                inputs = make_inputs(self.case, self.device)
                self._checksums = checksums(inputs)
            with self.phases("oracle"):
                self._reference = make_reference(self.case, inputs, self.checks.oracle)
        return self._reference

    @property
    def checksums(self) -> list[int]:
        """Of the checked inputs, whole."""
        if self._reference is None:
            _ = self.reference  # drawing the inputs takes their checksums
        return self._checksums

    def inputs_written(self) -> str:
        """Which of the checked inputs a backend changed, by name; they are then drawn again, so that the next gets them
        whole. "" where it changed none."""
        names = "" if self._reference is None else written(self._reference.inputs, self._checksums)
        if self._reference is None or not names:
            return ""
        with self.phases("inputs"):
            self._reference = replace(self._reference, inputs=make_inputs(self.case, self.device))
        return names

    def sources(self, outputs: Outputs) -> dict[str, float]:
        """Figures of `error_sources`; what does not depend on the outputs is made once."""
        reference = self.reference
        if self._sources is None:
            with self.phases("oracle"):
                drawn = drawn_oracle(self.case, reference.inputs, reference.rows)
                self._sources = drawn, source_errors(reference)
        drawn, errors = self._sources
        index = reference.rows.index[..., None].expand_as(drawn)
        out = outputs.out.transpose(1, 2).gather(2, index).double()
        return {**errors, "rmse_drawn": rmse_drawn(out, drawn)}

    def overflow_warning(self) -> tuple[str, ...]:
        """Where numbers of an 8-bit case are beyond its type: every kernel is given them saturated."""
        if self._overflow is None:
            self._overflow = overflowed(self.reference.inputs, self.case)
        if not self._overflow:
            return ()
        largest = FORMATS[self.case.dtype].largest
        words = f"beyond {largest:g}, the largest {self.case.dtype} number, with scaling {self.case.scaling}"
        return (f"inputs overflow: {self._overflow} {words}; they are saturated for every kernel",)

    def forget(self) -> None:
        """Inputs and references are made anew when next needed."""
        self._reference = self._fresh = self._spot = None

    def make_budgets(self, backend: Base) -> None:
        """The eager references that the judge will ask for, made ahead so that their time is not the backend's."""
        reference = self.reference
        with self.phases("oracle"):
            make_budgets(reference, backend)

    @property
    def fresh(self) -> Reference:
        """Other inputs of the same case, with the oracle at a few rows only."""
        if self._fresh is None:
            with self.phases("inputs"):
                inputs = make_inputs(self.case, self.device, RECHECK_SET)
            with self.phases("oracle"):
                self._fresh = make_reference(self.case, inputs, "spot")
        return self._fresh

    @contextmanager
    def fresh_in_place(self, inputs: Inputs) -> Iterator[Inputs]:
        """The numbers of `fresh` in the memory of these inputs, where no mask forbids it with their keys in a secret
        order, which leaves the answer what it is; afterwards `inputs` hold their own again."""
        with in_place_of(inputs, self.fresh.inputs) as given:
            if keys_may_move(self.case):
                move_keys(self.case, given, self.seed)
            yield given

    @property
    def spot(self) -> Reference:
        """The checked inputs, with the oracle at a few rows that follow from the secret seed."""
        if self._spot is None:
            with self.phases("oracle"):
                self._spot = make_reference(self.case, self.reference.inputs, "spot", seed=self.seed)
        return self._spot

    def judged_at_few_rows(self, few: Reference, backend: Base, outputs: Outputs) -> Accuracy:
        """The outputs at the rows of a spot check; where these fail, at all that the case is judged by.

        Few rows of heavy-tailed inputs may be right and further off than the eager reference is by luck (e5m2, channel
        outliers: RMSE 0.0096 at 16 rows, limit 0.0091; at all rows 0.0125, limit 0.0155). What only a spot check has
        looked at stays wrong, but for the RMSE, which is no single row's.
        """
        factors = self.checks.factors
        accuracy = judge(few, backend, outputs, factors)
        if accuracy.passed:
            return accuracy
        with self.phases("oracle"):
            whole = make_reference(self.case, few.inputs, self.checks.oracle)
        again = judge(whole, backend, outputs, factors)
        only_on_average = all(check.rule == RELATIVE_RMSE for check in accuracy.failures)
        return again if whole.rows.coverage == "full" or only_on_average else accuracy

    def sign_seed(self, backend: str) -> int:
        """Of the signs of a backend's input sets."""
        return zlib.crc32(f"signs.{self.seed}.{self.case.key}.{backend}".encode())

    def too_large(self, backend: Base) -> str | None:
        """Why the case cannot fit into the device's memory, known before anything is allocated."""
        need = 2 * input_bytes(self.case) + int(backend.extra_bytes(self.case))
        have = int(available_memory_bytes(self.device) * MEMORY_SHARE)
        if need <= have:
            return None
        return f"needs about {need / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB of the {self.device} memory may be used"


# What a worker is doing, told as it begins, and the seconds that each phase took.
