"""What the device can do at most: a rate beyond it was not measured, whatever the clock said.

On a CPU the limit is GEMM_MARGIN times the best GEMM that torch did in this process, in fp32 and in the case's dtype;
on a GPU the tensor cores' dense peak at the highest clock that the card has. Bytes are held against what a plain read
of memory reached. A limit that a rate exceeds is measured again first: a shared machine may have been slow at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from attnbench.case import Case, compulsory_bytes, forward_flops
from attnbench.records.environment import FLOP_PER_CLOCK_PER_SM
from attnbench.records.record import Check

if TYPE_CHECKING:
    import torch

# Names of the rules, as they stand in records.
IMPOSSIBLE_RATE, IMPOSSIBLE_READ = "impossible rate, FLOP/s", "impossible rate, bytes/s"
# Attention does at best what a GEMM does; small ones do less than the best, and other work may slow them.
GEMM_MARGIN, READ_MARGIN = 1.25, 1.2
GEMM_SIZE, READ_BYTES = 512, 2**27
# Calls, of which the fastest counts; no more where they take long, as a CPU's in 16 bits may.
TRIES, LONGEST_S = 5, 0.05
TIMES_AGAIN = 3  # measured before a rate is called impossible
# Input sets that hold so many caches cannot be served from the cache.
CACHES_EXCEEDED = 2


class Ceilings:
    """Measured when first needed; the best of all times stands."""

    def __init__(self, device: str, cache_bytes: int = 0):
        self._device, self._cache_bytes = device, cache_bytes
        self._gemm: dict[str, float] = {}
        self._read = 0.0

    def beyond(self, case: Case, seconds: float, rotated_bytes: int) -> tuple[Check, ...]:
        """The rules that a call of so many seconds breaks. rotated_bytes: of all input sets that took turns."""
        found = []
        rate, limit = forward_flops(case) / seconds, self._flops_limit(case.dtype)
        if limit is not None and rate > limit:
            limit = self._again(lambda: self._flops_limit(case.dtype, anew=True) or 0.0, rate)
            found += [Check(IMPOSSIBLE_RATE, rate, limit, rate <= limit)]
        if rotated_bytes > CACHES_EXCEEDED * self._cache_bytes > 0:
            rate, limit = compulsory_bytes(case) / seconds, self._read_limit()
            if rate > limit:
                limit = self._again(lambda: self._read_limit(anew=True), rate)
                found += [Check(IMPOSSIBLE_READ, rate, limit, rate <= limit)]
        return tuple(check for check in found if not check.passed)

    def warning(self, case: Case, seconds: float) -> tuple[str, ...]:
        """Of a rate above every GEMM that was measured, on a CPU: possible, and worth a second look."""
        rate, limit = forward_flops(case) / seconds, self._flops_limit(case.dtype)
        if limit is None or self._device != "cpu" or rate * GEMM_MARGIN <= limit:
            return ()
        return (f"{rate / 1e9:.3g} GFLOP/s is more than any GEMM did here ({limit / GEMM_MARGIN / 1e9:.3g})",)

    @staticmethod
    def _again(measure: Callable[[], float], rate: float) -> float:
        limit = 0.0
        for _ in range(TIMES_AGAIN):
            limit = max(limit, measure())
            if limit >= rate:
                break
        return limit

    def _flops_limit(self, dtype: str, anew: bool = False) -> float | None:
        """None where none is known."""
        if self._device != "cpu":
            return _tensor_peak(self._device, dtype)
        for name in ("fp32", "fp16" if dtype == "fp16" else "bf16"):
            if anew or name not in self._gemm:
                self._gemm[name] = max(self._gemm.get(name, 0.0), _gemm_rate(name))
        return GEMM_MARGIN * max(self._gemm.values())

    def _read_limit(self, anew: bool = False) -> float:
        if anew or not self._read:
            self._read = max(self._read, _read_rate(self._device))
        return READ_MARGIN * self._read


def _gemm_rate(name: str) -> float:
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
    a = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=dtype)
    out = torch.empty_like(a)
    return 2 * GEMM_SIZE**3 / _fastest_s(lambda: torch.mm(a, a, out=out), "cpu")


def _read_rate(device: str) -> float:
    import torch

    x = torch.ones(READ_BYTES // 8, dtype=torch.float32, device=device)
    y = torch.ones_like(x)
    return READ_BYTES / _fastest_s(lambda: torch.dot(x, y), device)


def _fastest_s(call: Callable[[], torch.Tensor], device: str) -> float:
    import torch

    def done_s() -> float:
        started = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    started, taken = time.perf_counter(), [done_s()]
    while len(taken) < TRIES and time.perf_counter() - started < LONGEST_S:
        taken.append(done_s())
    return min(taken)


def _tensor_peak(device: str, dtype: str) -> float | None:
    """Dense, at the highest clock that the card's driver tells; None for an architecture that is not listed."""
    import torch

    card = torch.cuda.get_device_properties(device)
    per_clock = FLOP_PER_CLOCK_PER_SM.get((card.major, card.minor), {}).get(dtype)
    clock_khz = getattr(card, "clock_rate", None)
    return None if per_clock is None or not clock_khz else per_clock * card.multi_processor_count * clock_khz * 1e3
