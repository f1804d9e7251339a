"""What telemetry costs: it changes the median of a 50 us call by less than 0.5 %.

Two calls of about 50 us, the one that holds the interpreter's lock all the time (plain Python) and one inside torch
(attention on one thread), each in rounds of short blocks with telemetry on and off in turn, ABBA, in one process. A
round's ratio is that of the medians over all its calls; the figure is the median over rounds, with its 95 % interval
(order statistics). Exit status 1 when even the lower end of an interval is over the limit. On a machine with other work
the interval is wide, and is printed as it is. Usage: telemetry.py [ROUNDS]
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from attnbench.timing.telemetry import PERIOD_S, TelemetryProcess
from attnbench.timing.timers import CpuTimer

LIMIT = 0.005
CALL_S = 50e-6
ROUNDS = 200
# Two to three readings a block; a round is short against the machine's own wander.
BLOCK_CALLS = 500
LEAD_CALLS = 100  # untimed: waking a process is not what is measured
ON, OFF = True, False
Timed = Callable[[], Any]  # no attention call, for which the timer's type is
TURNS = (ON, OFF, OFF, ON) * 4


def python_call() -> Timed:
    """Adds numbers for about CALL_S."""

    def adding(count: int) -> Timed:
        def add() -> int:
            total = 0
            for number in range(count):
                total += number
            return total

        return add

    count = 1000
    for _ in range(5):
        count = max(1, round(count * CALL_S / fastest(adding(count))))
    return adding(count)


def torch_call() -> Timed:
    """Attention with so many keys that it takes about CALL_S."""
    import torch

    torch.set_num_threads(1)

    def attention(seqlen: int) -> Timed:
        q, k = torch.randn(1, 1, 16, 64), torch.randn(1, 1, seqlen, 64)
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k)

    sizes = (8 * size for size in range(2, 200))
    return next(attention(size) for size in sizes if fastest(attention(size)) >= 0.9 * CALL_S)


def fastest(call: Timed) -> float:
    times = []
    for _ in range(50):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


class Switch:
    """A telemetry process that is stopped (SIGSTOP) while it is off."""

    def __init__(self) -> None:
        self._watch = TelemetryProcess("cpu", os.cpu_count() or 1)
        self._watch.facts()  # it has started

    def turn(self, on: bool) -> None:
        assert self._watch.pid is not None, "it has started"
        os.kill(self._watch.pid, signal.SIGCONT if on else signal.SIGSTOP)

    def readings(self) -> int:
        return self._watch.between(0.0, self._watch.clock.now()).telemetry_samples

    def stop(self) -> None:
        self.turn(ON)
        self._watch.stop()


class SleepingThread:
    """What telemetry is not: a thread of this process that wakes as often and does nothing."""

    def __init__(self) -> None:
        self._awake: threading.Event | None = None

    def turn(self, on: bool) -> None:
        if self._awake is not None:
            self._awake.set()
        self._awake = threading.Event() if on else None
        if on:
            threading.Thread(target=self._sleep, args=(self._awake,), daemon=True).start()

    @staticmethod
    def _sleep(ended: threading.Event) -> None:
        while not ended.wait(PERIOD_S):
            pass


def block(call: Timed, on: bool, switch: Switch | SleepingThread) -> Sequence[float]:
    switch.turn(on)
    return CpuTimer().take(itertools.repeat(call), LEAD_CALLS + BLOCK_CALLS, 1, None)[LEAD_CALLS:]


def ratio(call: Timed, switch: Switch | SleepingThread) -> float:
    """Median with telemetry over median without, of one round."""
    samples: dict[bool, list[float]] = {ON: [], OFF: []}
    for on in TURNS:
        samples[on] += block(call, on, switch)
    return statistics.median(samples[ON]) / statistics.median(samples[OFF])


def report(name: str, call: Timed, rounds: int, switch: Switch | SleepingThread) -> float:
    """Prints a line; the lower end of the interval."""
    ratios = sorted(ratio(call, switch) for _ in range(rounds))
    # Ranks of the order statistics around the median, normal approximation of the binomial.
    rank = max(0, round(rounds / 2 - 0.98 * math.sqrt(rounds)) - 1)
    low, high = ratios[rank], ratios[rounds - 1 - rank]
    print(
        f"{name}, {fastest(call) * 1e6:.1f} us a call, {rounds} rounds: on / off = "
        f"{statistics.median(ratios):.5f} (95 % interval {low:.5f} to {high:.5f})",
        flush=True,
    )
    return low


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    calls = {"plain Python": python_call(), "torch": torch_call()}
    switch = Switch()
    lows = [report(f"telemetry, {name}", call, rounds, switch) for name, call in calls.items()]
    switch.turn(ON)
    print(f"limit {1 + LIMIT:.3f}; {switch.readings()} readings were kept")
    switch.stop()
    report("for comparison a sleeping thread, plain Python", calls["plain Python"], rounds, SleepingThread())
    return 1 if max(lows) > 1 + LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
