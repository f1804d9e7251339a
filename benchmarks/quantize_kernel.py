"""The quantize kernel's own speed on a Hopper GPU: its time, its share of copy bandwidth, and of the attention time.

16k tokens, hidden size 2048, block scales with and without Hadamard, and scales per head. Bytes are those that must
move: 2 read and 1 written a value, also where the kernel reads twice. Exit status 1 where a figure misses its target,
3 where there is a GPU but not what it takes; on a machine without one it says so.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from attnbench.backend import Inputs, PrepCall
from attnbench.case import Case

SEQLEN, HIDDEN = 16384, 2048
SCHEMES = (
    {"scaling": "block", "hadamard": True},
    {"scaling": "block", "hadamard": False},
    {"scaling": "head", "hadamard": True},
)
# The target is for one pass over memory, and for the scheme of the FlashAttention-3 paper: block scales and Hadamard.
LEAST_COPY_SHARE = 0.80
MOST_ATTENTION_SHARE = 0.03
COPY_BYTES = 2**30


def main() -> int:
    from attnbench.backends.hopper_fp8 import BACKENDS
    from attnbench.machine.nvml import gpus

    reason = next((reason for reason in (backend.unavailable() for backend in BACKENDS) if reason), None)
    if reason:
        print(f"quantize kernel: not run: {reason}")
        return 3 if gpus() else 0
    copy = copy_bytes_per_s()
    print(f"{device_name()}: copy {copy / 1e12:.3f} TB/s (read and written)")
    missed = 0
    for head_dim in (64, 128, 256):
        for scheme in SCHEMES:
            missed += report(case_of(head_dim, **scheme), copy)
    return 1 if missed else 0


def case_of(head_dim: int, **fields: object) -> Case:
    return Case.make(batch=1, seqlen=SEQLEN, num_heads=HIDDEN // head_dim, head_dim=head_dim, dtype="e4m3", **fields)


def moved_bytes(case: Case) -> int:
    """What must be read and written of q, k and v, descales left out: they are a thousandth of it."""
    queries = case.seqlen_q * case.num_heads * case.head_dim
    keys_and_values = case.seqlen_k * case.num_heads_kv * (case.head_dim + case.head_dim_v)
    return 3 * case.batch * (queries + keys_and_values)


def report(case: Case, copy_bytes_per_s: float) -> int:
    """Prints the figures of one case; returns how many targets it misses."""
    from attnbench.backends.hopper_fp8 import HopperFp8
    from attnbench.reference.inputs import drawn_inputs

    drawn = drawn_inputs(case, "cuda")
    inputs = Inputs(drawn.q.bfloat16(), drawn.k.bfloat16(), drawn.v.bfloat16())
    backend = HopperFp8("fp8")
    quantize_s = median_s(backend.prep_call(case, inputs).call)
    attention_s = median_s(backend.prepare(case, inputs))
    rate = moved_bytes(case) / quantize_s
    print(
        f"{case.key}: {quantize_s * 1e6:.1f} us, {rate / 1e12:.3f} TB/s, {rate / copy_bytes_per_s:.1%} of copy; "
        f"attention {attention_s * 1e6:.1f} us, quantizing {quantize_s / attention_s:.1%} of it"
    )
    if case.scaling != "block" or not case.hadamard:
        return 0
    return (rate < LEAST_COPY_SHARE * copy_bytes_per_s) + (quantize_s > MOST_ATTENTION_SHARE * attention_s)


def median_s(call: Callable[[], object]) -> float:
    """Seconds of a call with a cold cache, by CUDA events."""
    from attnbench.timing.timers import EventTimer, make_flush
    from attnbench.worker.prepared import sample

    taken = sample(PrepCall("", call), EventTimer(), make_flush("cuda", 0))
    return statistics.median(taken.samples_s)


def copy_bytes_per_s() -> float:
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / median_s(lambda: target.copy_(source))


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name()


if __name__ == "__main__":
    sys.exit(main())
