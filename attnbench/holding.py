"""A checked backend that is held in this process between jobs and takes a block whenever it is asked to.

So two processes can take turns: two revisions of a kernel, which cannot both be imported into one.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.backend import Backend
from attnbench.prepared import Prepared
from attnbench.records.record import Record
from attnbench.timing.interleave import TimedArm
from attnbench.trial import DURING, check_trial, guarded

if TYPE_CHECKING:
    from attnbench.bench import Bench

PROCESSES_AT_ONCE = 2  # each holds a backend, and the device's memory is for both
OWN_FOLDER = Path(__file__).resolve().parent


class Holding:
    """The backend, prepared and warm."""

    def __init__(self, bench: Bench, prepared: Prepared, arm: TimedArm):
        self._bench, self._prepared, self._arm, self._blocks = bench, prepared, arm, 0

    @classmethod
    def of(cls, bench: Bench, backend: Backend, timed: bool, label: str, process: int) -> Holding | Record:
        """The holding of a backend that passed its checks, or its record where it did not or is not to be timed."""
        checked = check_trial(bench, backend)
        if isinstance(checked, Record) or not timed:
            return checked if isinstance(checked, Record) else checked.record

        def hold() -> Holding:
            prepared = Prepared(bench, checked, bench.reference.inputs, [backend] * PROCESSES_AT_ONCE)
            arm = TimedArm(
                label, prepared.calls, bench.timing, prepared.timer, bench.watch, bench.watch.clock, prepared.flush(),
                process,
            )  # fmt: skip
            with bench.phases("time"):
                arm.warm_up()
            return cls(bench, prepared, arm)

        return guarded(bench, checked.record, hold, DURING)

    @property
    def done(self) -> bool:
        return self._arm.done

    @property
    def lost_s(self) -> float:
        return self._arm.lost_s

    @property
    def call_s(self) -> float:
        """What a call lasted when it was warm."""
        return self._arm.call_s

    def take(self, round: int, growth: int, call_s: float) -> Record | None:
        """One block; the record of what the backend raised in it, else None.

        call_s: what both sides take a call to last, so that their blocks and samples are made alike: where noise is
        skewed, the median of few samples lies elsewhere than that of many.
        """
        self._arm.call_s = call_s
        with self._bench.phases("time"):
            checked = self._prepared.checked.record
            outcome = guarded(self._bench, checked, lambda: self._arm.take(round, growth), DURING)
        self._blocks += 1
        return outcome

    def release(self, together: tuple[str, ...], order_seed: int, timed: bool) -> Record:
        """The record, judged again after timing; without its times where they are not wanted, or none were taken."""
        checked = self._prepared.checked
        if not (timed and self._blocks):
            return checked.record

        def judged() -> Record:
            return self._prepared.record(self._arm.measurement(together, order_seed))

        return guarded(self._bench, checked.record, judged, DURING)


def strays(checkout: Path) -> list[str]:
    """Files of imported modules that lie in a checkout, relative to it; this package and installed ones are none."""
    spared = {OWN_FOLDER, *(Path(path).resolve() for path in sysconfig.get_paths().values())}
    spared |= {Path(path).resolve() for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    found = {Path(file).resolve() for file in files if isinstance(file, str)}
    inside = (path for path in found if path.is_relative_to(checkout) and not any(map(path.is_relative_to, spared)))
    return sorted(str(path.relative_to(checkout)) for path in inside)
