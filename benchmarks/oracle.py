"""The fp64 oracle's time, CPU time and extra memory at batch 1, 8 heads, seqlen 4096, head_dim 128, on all cores."""

import resource
import time

from attnbench.case import Case
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows

CASE = Case.make(batch=1, seqlen=4096, num_heads=8, head_dim=128)
TIMES = 3
LIMIT_MIB = 200


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    inputs = make_inputs(CASE)
    rows = choose_rows(CASE, "full", "cpu")
    small = Case.make(batch=1, seqlen=64, num_heads=8, head_dim=128)
    oracle(small, make_inputs(small), choose_rows(small, "full", "cpu"))  # torch's own first-use memory
    before, times, cpu_times = peak_mib(), [], []
    for _ in range(TIMES):
        started, cpu_started = time.perf_counter(), time.process_time()
        oracle(CASE, inputs, rows)
        times.append(time.perf_counter() - started)
        cpu_times.append(time.process_time() - cpu_started)
    extra = peak_mib() - before
    # Beside other work the CPU time says more than the clock; it is that of all threads.
    print(
        f"oracle, {CASE.key}: {min(times):.2f} s, {min(cpu_times):.2f} s of CPU, best of {TIMES}; "
        f"{extra:.0f} MiB extra (limit {LIMIT_MIB})"
    )
    assert extra < LIMIT_MIB


if __name__ == "__main__":
    main()
