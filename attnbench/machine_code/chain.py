"""The chain of one warpgroup: how long a pass of a main loop takes it when it has the multiprocessor for itself.

Computed by letting a warp run the loop's common path again and again, in order, until a pass takes as long as the one
before. An instruction issues once
- the stall count of the one before it has passed (the compiler's word on fixed latencies),
- the scoreboards that it waits for are free; what sets one frees it LATENCY clocks after it issued, or after its pipe
  took it, since no file says when a load, a shuffle or a special function is done;
- its pipe can take it: a special function 8 clocks after the last one, half-rate arithmetic 2, and so on (pipes.py).
Tensor instructions of a warpgroup queue behind each other without holding up the warp, however many; waiting for their
groups takes until the tensor cores are through with them. Barriers of shared memory and of other warpgroups are ready.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.machine_code.instructions import SCOREBOARDS, Instruction
from attnbench.machine_code.pipes import PIPES, clocks_of, tensor_clocks
from attnbench.machine_code.products import product_of

# Of loads from shared memory, shuffles and special functions: an assumption, not a figure of any file. Shared memory
# answers after 29 clocks on an H100 (Luo et al., arXiv:2402.13499), the others sooner.
LATENCY = 24
# Passes after which a loop repeats itself; a steady state takes two or three.
MOST_PASSES = 12


class Warp:
    """Where a warp, its pipes and the tensor cores stand, in clocks."""

    def __init__(self, arch: str) -> None:
        self._arch = arch
        self.clock = 0.0
        self._pipe_free = dict.fromkeys(PIPES, 0.0)
        self._scoreboards = [0.0] * SCOREBOARDS
        self._tensor_free = 0.0
        self._groups: list[float] = []

    def issue(self, instruction: Instruction) -> None:
        """Lets one instruction issue as soon as it may, and the clock stand where the next one may at the earliest."""
        ready = self.clock
        for board, free in enumerate(self._scoreboards):
            if instruction.waits_for >> board & 1:
                ready = max(ready, free)
        if (left := instruction.groups_left) is not None:
            unfinished = self._groups[: len(self._groups) - left] if left < len(self._groups) else []
            ready = max([ready, *unfinished])
            self._groups = self._groups[len(unfinished) :]
        ready = max(ready, self._take_pipe(instruction, ready))
        for board in instruction.sets_barriers:
            self._scoreboards[board] = max(self._scoreboards[board], ready + LATENCY)
        self.clock = ready + max(instruction.stall, 1)

    def _take_pipe(self, instruction: Instruction, ready: float) -> float:
        """When the instruction's pipe takes it."""
        if product := product_of(instruction):
            begins = max(ready, self._tensor_free)
            self._tensor_free = begins + tensor_clocks(product, self._arch)
            if instruction.commits:
                self._groups.append(self._tensor_free)
            return ready if product.of_warpgroup else begins
        if found := clocks_of(instruction, self._arch):
            pipe, clocks = found
            begins = max(ready, self._pipe_free[pipe])
            self._pipe_free[pipe] = begins + clocks
            return begins
        return ready


def chain_clocks(path: Sequence[Instruction], arch: str) -> float:
    """Clocks of one pass in the steady state, of one warpgroup alone."""
    warp, before, last = Warp(arch), 0.0, -1.0
    for _ in range(MOST_PASSES):
        for instruction in path:
            warp.issue(instruction)
        took, before = warp.clock - before, warp.clock
        if took == last:
            break
        last = took
    return took
