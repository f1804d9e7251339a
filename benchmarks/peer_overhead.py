"""What the harness adds to a call of a zero-copy CPU peer: at most 5 us beyond the bare session's own call.

A case of 8 tokens and one head of 8, on one thread, so that a call is little more than its overhead. The backend's
call goes through the harness' CPU timer; the bare one is the library's call on tensors bound once, in a plain loop.
They take turns, ABBA, in one process; a round's figure is the difference of the fastest turns of both, and the line
shows the median over rounds with its 95 % interval (order statistics). Exit status 1 where even the lower end is over
the limit; peers that are not installed are told. Usage: peer_overhead.py [ROUNDS]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from attnbench.backend import Inputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.records.stats import interval
from attnbench.timing.timers import CpuTimer

LIMIT_S = 5e-6
ROUNDS = 200
CALLS = 25  # of each kind in a turn: some of a round's turns pass undisturbed
LEAD_CALLS = 10  # untimed: the other kind's data is in the cache
BARE, HARNESS = False, True
TURNS = (BARE, HARNESS, HARNESS, BARE) * 4
HEAD_DIM, SEQLEN = 8, 8
Bare = Callable[[], Any]


def main() -> int:
    import torch

    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    over = False
    for name, make in (("ort_mha", bare_mha), ("openvino", bare_openvino), ("executorch", bare_executorch)):
        backend = builtin()[name]
        if reason := backend.unavailable():
            print(f"{name}: not run: {reason}")
            continue
        dtype = "bf16" if name == "executorch" else "fp16"
        case = Case.make(batch=1, seqlen=SEQLEN, num_heads=1, head_dim=HEAD_DIM, dtype=dtype)
        kind = torch.bfloat16 if dtype == "bf16" else torch.float16
        q, k, v = (torch.randn(1, SEQLEN, 1, HEAD_DIM).to(kind) for _ in range(3))
        inputs = Inputs(q, k, v)
        bare, call = make(case, inputs), backend.prepare(case, inputs)
        differences, bare_s = compared(bare, call, rounds)
        found = interval(differences, "round")
        over |= found.low_s > LIMIT_S
        median, low, high = (1e6 * seconds for seconds in (statistics.median(differences), found.low_s, found.high_s))
        print(f"{name}: {median:.2f} us ({low:.2f} to {high:.2f}) over {bare_s * 1e6:.1f} us of the bare call, at most "
              f"{LIMIT_S * 1e6:g} us asked for")  # fmt: skip
    return int(over)


def bare_mha(case: Case, inputs: Inputs) -> Bare:
    import torch

    from attnbench.backends.ort.session import binding, operator, session

    given = tuple((name, getattr(inputs, name).flatten(2)) for name in ("q", "k", "v"))
    made = (("out", torch.empty(case.batch, case.seqlen_q, case.num_heads * case.head_dim_v, dtype=inputs.q.dtype)),)
    attributes = {"num_heads": case.num_heads, "scale": case.scale, "unidirectional": 0}
    run = session(operator("MultiHeadAttention", "com.microsoft", attributes, given, made), 1)
    bound = binding(run, given, made)
    return partial(lambda held: run.run_with_iobinding(bound), (given, made))


def bare_openvino(case: Case, inputs: Inputs) -> Bare:
    import openvino
    import torch

    from attnbench.backends.openvino import compiled_model

    shape = tuple(inputs.q.shape)
    request = compiled_model((shape,) * 3, case.dtype, None, case.scale, 1).create_infer_request()
    tensors = [inputs.q, inputs.k, inputs.v, torch.empty_like(inputs.q)]
    shared = [openvino.Tensor(t.view(torch.int16).numpy(), openvino.Shape(shape), openvino.Type.f16) for t in tensors]
    for index in range(3):
        request.set_input_tensor(index, shared[index])
    request.set_output_tensor(0, shared[3])

    def bare(held: list[Any] = tensors) -> None:
        request.start_async()
        request.wait()

    return bare


def bare_executorch(case: Case, inputs: Inputs) -> Bare:
    from attnbench.backends.executorch import custom_sdpa, use_threads

    operator = custom_sdpa()
    use_threads(1)
    return partial(operator, inputs.q, inputs.k, inputs.v, 0, None, 0.0, False, case.scale)


def compared(bare: Bare, call: Any, rounds: int) -> tuple[list[float], float]:
    """Each round's difference a call, and the bare call's median time, in seconds."""
    timer = CpuTimer()
    differences, alone = [], []
    for _ in range(rounds):
        taken: dict[bool, list[float]] = {BARE: [], HARNESS: []}
        for turn in TURNS:
            for _ in range(LEAD_CALLS):
                (call if turn else bare)()
            taken[turn].append(through_harness(timer, call) if turn else plainly(bare))
        differences.append(min(taken[HARNESS]) - min(taken[BARE]))
        alone.append(min(taken[BARE]))
    return differences, statistics.median(alone)


def through_harness(timer: CpuTimer, call: Any) -> float:
    (sample,) = timer.take(itertools.repeat(call), 1, CALLS, None)
    return sample


def plainly(bare: Bare) -> float:
    started = time.perf_counter_ns()
    for _ in range(CALLS):
        bare()
    return (time.perf_counter_ns() - started) * 1e-9 / CALLS


if __name__ == "__main__":
    sys.exit(main())
