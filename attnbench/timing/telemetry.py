"""Looks at the machine every 10 ms and joins what it saw to blocks of samples by time.

Errors of the driver are data: a query that a card does not answer is named once, one that fails stands in the
conditions of the blocks it failed in, a card that disappears ends no run. Runs in a process of its own, see
`telemetry_process`.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any, Protocol

from attnbench.machine.host import cpus_allowed
from attnbench.paths import import_folder
from attnbench.records.measurement import Conditions, known_facts
from attnbench.timing.conditions import Reading, make_judge, summarize
from attnbench.timing.sampling import BACKWARDS, Clock, SystemClock, Usability

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


# Telemetry in a process of its own: the process that samples, and the watch that asks it.
#
# A thread would take the interpreter's lock from the calls that it watches: even one that only sleeps changes the
# median of a 50 us call by half a percent on a busy machine; this process does not (benchmarks/telemetry.py). It is
# asked between blocks and answers with their conditions; it ends when its parent does, however that ends.
#
# requests  {"ask": "between", "start_s": s, "end_s": s}    {"ask": "facts"}    one JSON line each on stdin
# answers   conditions as `record.known_facts`               facts               one JSON line each on stdout

# An answer takes a millisecond; a process that has not answered by then is stuck in the driver, or starved.
ANSWER_TIMEOUT_S = 5.0
# It starts while torch is imported, which takes longer.
START_TIMEOUT_S = 30.0
PR_SET_PDEATHSIG = 1  # prctl(2)


class TelemetryProcess:
    """A `sampling.Watch` that asks a process of its own. One that dies or is silent is a problem on each block."""

    def __init__(self, device: str, cpus: int, command: tuple[str, ...] = ()):
        """command: what to start in place of the sampling process (tests do)."""
        self.clock = SystemClock()
        self._judge = make_judge(cpus)
        self._lost = ""
        # NOTE: -P and this very package's folder, or an `attnbench` in the worker's folder would take its place.
        own = (sys.executable, "-P", "-m", "attnbench.timing.telemetry", device, repr(self.clock.epoch_s))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                command or own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env={**os.environ, "PYTHONPATH": _import_path()},
            )  # fmt: skip
        except OSError as error:
            self._lost = f"telemetry: it could not start: {error.strerror}"

    @property
    def pid(self) -> int | None:
        """Of the process; None once it is lost."""
        return None if self._process is None else self._process.pid

    def between(self, start_s: float, end_s: float) -> Conditions:
        answer = self._ask({"ask": "between", "start_s": start_s, "end_s": end_s}, ANSWER_TIMEOUT_S)
        return Conditions(problems=(self._lost,)) if answer is None else Conditions.of(answer)

    def usability(self, conditions: Conditions | None) -> Usability:
        return self._judge(conditions)

    def facts(self) -> dict[str, Any]:
        """How the machine is watched, for `environment.json`; waits until the process has started."""
        answer = self._ask({"ask": "facts"}, START_TIMEOUT_S)
        return {"lost": self._lost} if answer is None else answer

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in _pipes(self._process):
                pipe.close()
            self._process = None
        self._lost = self._lost or "telemetry: it was ended"

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """The answer; None, and the process ended, where there is none."""
        if self._process is None:
            return None
        requests, answers = _pipes(self._process)
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            told: dict[str, Any] = json.loads(_line(answers, time.monotonic() + timeout_s))
            return told
        except TimeoutError:
            self._lost = f"telemetry: no answer within {timeout_s:g} s"
        except (OSError, ValueError):  # its end, or a line cut short by it
            self._lost = "telemetry: its process ended"
        self.stop()
        return None


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Where it is asked, and where it answers."""
    assert process.stdin is not None and process.stdout is not None, "it was started with both"
    return process.stdin, process.stdout


def _line(answers: IO[bytes], deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(answers.fileno(), 1 << 16)
        if not part:
            raise BrokenPipeError
        line += part
    return line


def _import_path() -> str:
    return os.pathsep.join(part for part in (import_folder(), os.environ.get("PYTHONPATH", "")) if part)


def serve(telemetry: Telemetry, requests: IO[bytes], answers: IO[bytes], period_s: float = PERIOD_S) -> None:
    """Takes a reading every period and answers in between, until there is nobody left to ask."""
    due = time.monotonic()
    while True:
        ready, _, _ = select.select([requests], [], [], max(0.0, due - time.monotonic()))
        if ready:
            line = requests.readline()
            if not line:
                return
            answers.write(json.dumps(answer(telemetry, json.loads(line))).encode() + b"\n")
            answers.flush()
        if time.monotonic() >= due:
            telemetry.tick()
            due = max(due + period_s, time.monotonic())  # what was missed is not made up for


def answer(telemetry: Telemetry, request: dict[str, Any]) -> dict[str, Any]:
    if request["ask"] == "facts":
        return telemetry.facts()
    return known_facts(asdict(telemetry.between(request["start_s"], request["end_s"])))


def sensor_of(device: str) -> Any:
    """The sensor of "cpu", "cuda" or "cuda:1"."""
    from attnbench.timing.sensors import CpuSensor, NvmlSensor

    kind, _, index = device.partition(":")
    return CpuSensor() if kind == "cpu" else NvmlSensor(int(index or 0))


def main() -> None:
    """Arguments: the device, and what to add to the monotonic clock to have the parent's."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    device, epoch_s = sys.argv[1:]
    clock: Clock = SystemClock(float(epoch_s))
    with open(0, "rb", buffering=0) as requests, open(1, "wb", buffering=0) as answers:
        serve(Telemetry(sensor_of(device), clock), requests, answers)


if __name__ == "__main__":
    main()
