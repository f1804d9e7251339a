"""Looks at the machine every 10 ms and joins what it saw to blocks of samples by time.

Errors of the driver are data: a query that a card does not answer is named once, one that fails stands in the
conditions of the blocks it failed in, a card that disappears ends no run. Runs in a process of its own, see `telemetry_process`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from attnbench.conditions import Reading, make_judge, summarize
from attnbench.machine.host import cpus_allowed
from attnbench.records.measurement import Conditions
from attnbench.sampling import BACKWARDS, Clock, SystemClock, Usability

# Clocks and power are known every 10 ms: the driver renews its own figures no faster than that.
PERIOD_S = 0.01
# Readings kept: the longest measurement (max_time_s and its pauses) with room to spare.
KEPT_READINGS = 12_000


class Sensor(Protocol):
    """Reads the machine. `values` are fields of `conditions.Reading`; what cannot be read is left out or a problem."""

    name: str

    def values(self) -> Mapping[str, Any]: ...

    def facts(self) -> Mapping[str, Any]:
        """What it can and cannot read here, for `environment.json`."""

    def close(self) -> None: ...


class Telemetry:
    """A `sampling.Watch` over the readings that `tick` takes."""

    def __init__(self, sensor: Sensor, clock: Clock | None = None, period_s: float = PERIOD_S, cpus: int | None = None):
        self._sensor, self.clock, self._period_s = sensor, clock or SystemClock(), period_s
        self._judge = make_judge(cpus or len(cpus_allowed()))
        self._readings: deque[Reading] = deque(maxlen=KEPT_READINGS)

    def tick(self) -> None:
        """Takes one reading. Never raises for what a sensor does."""
        try:
            reading = Reading(self.clock.now(), **self._sensor.values())
        except Exception as error:
            reading = Reading(self.clock.now(), problems=(f"{self._sensor.name}: {error}",))
        if self._readings and reading.time_s < self._readings[-1].time_s:
            # What was read before cannot be told from what comes now: it is dropped, and said.
            self._readings.clear()
            self._readings.append(Reading(reading.time_s, problems=(f"telemetry: {BACKWARDS}",)))
        self._readings.append(reading)

    def between(self, start_s: float, end_s: float) -> Conditions:
        """What was seen from start_s to end_s; a block shorter than the period has its neighbours' readings."""
        margin_s = 2 * self._period_s
        around: list[Reading] = []
        for reading in reversed(self._readings):
            if reading.time_s < start_s - margin_s:
                break
            if reading.time_s <= end_s + margin_s:
                around.append(reading)
        return summarize(around[::-1], start_s, end_s)

    def usability(self, conditions: Conditions | None) -> Usability:
        return self._judge(conditions)

    def facts(self) -> dict[str, Any]:
        """How the machine was watched, for `environment.json`."""
        return {"sensor": self._sensor.name, "period_s": self._period_s, **self._sensor.facts()}
