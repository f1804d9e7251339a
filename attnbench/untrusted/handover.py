"""Timed calls in a candidate process: several to a hand-over, timed by the judge's clock, one of them judged at random.

A sample is one hand-over. The candidate looks up the calls and says that it is ready; the judge takes the time, says
go, and takes it again when it hears that all calls are done and their outputs lie in slots of shared memory, one a
call. The same with calls that return a ready output, in a process that runs no plugin, is an empty hand-over; it is
measured beside the samples and subtracted from them.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from attnbench.backend import Call, Outputs, RemoteError
from attnbench.case import Case
from attnbench.machine.threads import on_every_cpu
from attnbench.timing.measure import region_calls
from attnbench.timing.stopping import AHEAD, HAND_OVER
from attnbench.timing.timers import CPU_RESOLUTION_S
from attnbench.untrusted.memory import Place
from attnbench.untrusted.process import Candidate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of a sample, so much may be the hand-over; beyond it a measurement is flagged.
MOST_SHARE = 0.05
# A sample is at least this much of what was taken: a hand-over that took longer than usual makes no call free.
LEAST_LEFT = 0.5
# Copies of outputs are a part of each call, which more calls make no smaller: at most so many times the calls that make
# the rest of a hand-over small enough.
BEYOND = 4
# Hand-overs whose median counts: the last so many; of empty ones at least so many.
KEPT, EMPTY_LEAST = 65, 15
# Slots that one message names.
SLOTS_AT_ONCE = 256
PAGE_BYTES = 4096
# The word of the control page that says go: the number of a hand-over.
GO = 0


def place_in(candidate: Candidate, tensor: Tensor) -> Place:
    place = candidate.arena.place(tensor)
    assert place is not None, "it was made in this arena"
    return place


def slot_tensors(candidate: Candidate, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Where the outputs of a call go: out in the type of q, and lse."""
    import torch

    out = (case.batch, case.seqlen_q, case.num_heads, case.head_dim_v)
    lse = (case.batch, case.num_heads, case.seqlen_q)
    empty = candidate.arena.empty
    return {"out": empty(out, dtype), "lse": empty(lse, torch.float32)}


class HandOver:
    """Hand-overs to one candidate, with slots for outputs of one shape."""

    def __init__(self, candidate: Candidate, case: Case, dtype: torch.dtype):
        import torch

        self.candidate, self._case, self._dtype = candidate, case, dtype
        page = candidate.arena.empty((PAGE_BYTES // 8,), torch.int64)
        self._page, self._words = page, page.numpy().data
        self._slots: list[dict[str, Tensor]] = []
        self._number = self._told = 0
        self.lse = False  # whether the last call returned one
        self.outputs: list[Outputs] = []

    def claim(self, count: int) -> None:
        """Makes the candidate ready for hand-overs of up to so many calls."""
        while len(self._slots) < count:
            self._slots.append(slot_tensors(self.candidate, self._case, self._dtype))
        if self.candidate.slots is self and self._told >= count:
            return
        self.candidate.slots, self._told = self, len(self._slots)
        page = place_in(self.candidate, self._page)
        self.candidate.ask("control", (page,), page=[page.segment, page.offset])
        for start in range(0, len(self._slots), SLOTS_AT_ONCE):
            placed = [
                {name: place_in(self.candidate, tensor) for name, tensor in slot.items()}
                for slot in self._slots[start : start + SLOTS_AT_ONCE]
            ]
            words = [{name: place.words() for name, place in slot.items()} for slot in placed]
            named = [place for slot in placed for place in slot.values()]
            self.candidate.ask("more_slots", named, slots=words)

    def take(self, held: Sequence[int], wanted: Sequence[int] = ()) -> tuple[float, float]:
        """Seconds of a hand-over of these prepared calls, by this process's clock: up to go, in which the candidate is
        continued and looks them up; and from go on. Raises what a call raised.

        wanted: the places of calls whose `outputs` are copied, right when all are done, while the candidate is stopped.

        NOTE: it waits to be woken, and looks at no flag over and over: a process that does so keeps a core from the
        candidate, and where all are busy loses its turn just when it is needed.
        """
        candidate = self.candidate
        self._number += 1
        continued_ns = time.perf_counter_ns()
        asked = candidate.tell("run", number=self._number, calls=list(held))
        said = candidate.next_message()
        if said.get("ready") != self._number:
            candidate.answer(asked, said)
            raise candidate.broken("it answered a hand-over that it had not begun")
        started_ns = time.perf_counter_ns()
        self._words[GO] = self._number
        done = candidate.done()
        ended_ns = candidate.heard_ns
        if done and wanted:
            candidate.hold()
            self.outputs = [self._copied(place) for place in wanted]
            candidate.go_on()
        answer = candidate.answer(asked)
        if not done:
            raise candidate.broken("it answered a hand-over without saying that it was done")
        self.lse = isinstance(answer, dict) and answer.get("lse") is True
        if not self.lse:
            self.outputs = [replace(one, lse=None) for one in self.outputs]
        return (started_ns - continued_ns) * 1e-9, (ended_ns - started_ns) * 1e-9

    def ready_output(self, lse: bool) -> int:
        """The number of a call that returns a ready output."""
        placed = {name: place_in(self.candidate, tensor) for name, tensor in self._slots[0].items()}
        words = {name: place.words() for name, place in placed.items()}
        found = self.candidate.ask("ready_output", placed.values(), slot=words, lse=lse)
        assert isinstance(found, int), "our own process answers with a number"
        return found

    def _copied(self, place: int) -> Outputs:
        """What lies in a slot, where the candidate cannot reach it."""
        slot = self._slots[place]
        return Outputs(slot["out"].clone(), slot["lse"].clone())


@dataclass
class Taken:
    """The last hand-overs of so many calls: seconds up to go and from there on."""

    before_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    calls_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, taken: tuple[float, float]) -> None:
        self.before_s.append(taken[0])
        self.calls_s.append(taken[1])

    @property
    def median_s(self) -> float:
        return statistics.median(self.calls_s)


class HandOverTimer:
    """A timer (`timing.sampling.Timer`) of hand-overs. seed: of the calls that are drawn to be judged. judge: given how
    many turns ago a call of a sample was, and its outputs; called for one call of each sample, once that is over.

    handover_s: the empty hand-over that samples are relieved of, as it was last.
    """

    name = "cpu"

    def __init__(
        self, candidate: Candidate, spare: Callable[[], Candidate], case: Case, input_sets: int, seed: int
    ):  # fmt: skip
        self._candidate, self._spare, self._case = candidate, spare, case
        # Each on another input set, none of which changes between its turn and the hand-over (see `measure.Turns`).
        self._most = (input_sets + 1) // 2
        self._drawn = random.Random(seed)
        self._pair: tuple[HandOver, HandOver] | None = None  # to the candidate, and empty ones
        self._ready = 0
        self._empty: dict[int, Taken] = {}  # by number of calls
        self._full: dict[int, Taken] = {}  # likewise
        self._fixed_s = self._each_s = 0.0  # of an empty hand-over: of itself, and of each call
        self._last: Outputs | None = None
        self._flags: dict[str, None] = {}
        self.handover_s = 0.0
        self.judge: Callable[[int, Outputs], None] = lambda ago, outputs: None

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(self._flags)

    def region(self, estimate_s: float) -> int:
        """So many calls that the hand-over is at most MOST_SHARE of a sample, as far as there are input sets."""
        left_s = MOST_SHARE * estimate_s - (1 - MOST_SHARE) * self._each_s
        others = (1 - MOST_SHARE) * self._fixed_s
        most = math.ceil(BEYOND * others / (MOST_SHARE * (estimate_s + self._each_s)))
        enough = math.ceil(others / left_s) if left_s > 0 else most
        return min(self._most, max(min(enough, most), region_calls(estimate_s, CPU_RESOLUTION_S)))

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        taken = []
        full = self._full.setdefault(calls_per_sample, Taken())
        with alone():
            for number in range(count):
                turn: list[Any] = list(itertools.islice(calls, calls_per_sample))
                own = self._claimed(turn)
                self._take_empty(calls_per_sample, another=number == 0)
                if before is not None:
                    before()
                last = calls_per_sample - 1
                drawn = self._drawn.randrange(calls_per_sample)
                full.add(own.take([call.held for call in turn], (last, drawn)))
                taken.append(full.calls_s[-1])
                self._last, one = own.outputs
                self.judge(last - drawn, one)
        ahead_s = self._look_at(full, self._empty[calls_per_sample])
        return [(max(one - self.handover_s, LEAST_LEFT * one) + ahead_s) / calls_per_sample for one in taken]

    def last(self) -> Outputs:
        assert self._last is not None, "last() before take()"
        return self._last

    def _look_at(self, full: Taken, empty: Taken) -> float:
        """Sets `handover_s` and the flags, as they are now; seconds that each sample owes for work ahead of go."""
        self.handover_s, enough_s = empty.median_s, MOST_SHARE * full.median_s
        ahead_s = statistics.median(full.before_s) - statistics.median(empty.before_s)
        found = {HAND_OVER: self.handover_s > enough_s, AHEAD: ahead_s > enough_s}
        self._flags = dict.fromkeys(flag for flag, is_so in found.items() if is_so)
        return ahead_s if found[AHEAD] else 0.0

    def _claimed(self, turn: Sequence[Any]) -> HandOver:
        """The hand-overs to the candidate, and the empty ones, ready for as many calls as there may be."""
        if any(call.candidate is not self._candidate for call in turn):
            raise RemoteError("crash", self._candidate.ended or "the candidate process has ended")
        if self._pair is None:
            own, empty = (HandOver(one, self._case, turn[0].dtype) for one in (self._candidate, self._spare()))
            self._pair = own, empty
            own.claim(self._most)
            own.take([turn[0].held])  # untimed: whether it gives an lse
            empty.claim(self._most)
            self._ready = empty.ready_output(own.lse)
            one_s, most_s = self._take_empty(1), self._take_empty(self._most)
            self._each_s = max(0.0, (most_s - one_s) / max(1, self._most - 1))
            self._fixed_s = max(0.0, one_s - self._each_s)
        for each in self._pair:
            each.claim(self._most)
        return self._pair[0]

    def _take_empty(self, count: int, another: bool = False) -> float:
        """Sees to it that there are enough empty hand-overs of so many calls; the median. another: makes one more."""
        assert self._pair is not None, "claimed ahead of it"
        empty = self._empty.setdefault(count, Taken())
        while another or len(empty.calls_s) < EMPTY_LEAST:
            another = False
            empty.add(self._pair[1].take([self._ready] * count))
        return empty.median_s


@contextmanager
def alone() -> Iterator[None]:
    """This process keeps to one thread, on whichever core is free: none of its own waits for work by spinning on a core
    that the candidate computes on."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with on_every_cpu():
            yield
    finally:
        torch.set_num_threads(threads)
