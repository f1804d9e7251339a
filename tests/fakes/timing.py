"""A clock that stands still unless told, a timer with given samples, and a stopping rule that counts."""

import itertools

from attnbench.backend import Outputs
from attnbench.settings import Timing


class FakeClock:
    """Moves only when something is said to take time."""

    def __init__(self):
        self.time_s, self.slept = 1000.0, []

    def now(self):
        return self.time_s

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time_s += seconds


class FakeTimer:
    """Samples as `lengths` gives them; each takes its length on the clock, and calls what it is told to call."""

    name = "fake"
    flags = ()

    def __init__(self, clock, lengths, calls_per_region=1):
        self.clock, self.lengths, self.calls_per_region = clock, iter(lengths), calls_per_region
        self.takes, self._last = [], None

    def region(self, estimate_s):
        self.estimate_s = estimate_s
        return self.calls_per_region

    def take(self, calls, count, calls_per_sample, before):
        self.takes.append((count, calls_per_sample))
        samples = list(itertools.islice(self.lengths, count))
        for sample in samples:
            if before is not None:
                before()
            for _ in range(calls_per_sample):
                self._last = next(calls)()
            self.clock.time_s += sample * calls_per_sample
        return samples

    def last(self):
        return self._last


class FakeRule:
    """Done after so many samples, hopeless where the time allows no more than so many times as many."""

    def __init__(self, enough, hopeless_below=0.0):
        self.enough, self.hopeless_below, self.seen, self.calls_per_sample = enough, hopeless_below, [], set()

    def add(self, samples_s, calls_per_sample):
        self.seen += samples_s
        self.calls_per_sample.add(calls_per_sample)

    def done(self):
        return len(self.seen) >= self.enough

    def unmet(self):
        return () if self.done() else (f"{len(self.seen)} of {self.enough}",)

    def beyond_reach(self, more):
        return more < self.hopeless_below

    def flags(self):
        return ()


OPTIONS = Timing(min_samples=10, min_time_s=0.1, max_time_s=2.0, warmup_s=0.25, settle_s=0.0)
COUNTED = [lambda: Outputs("one"), lambda: Outputs("two"), lambda: Outputs("three")]
