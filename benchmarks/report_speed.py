"""How long `attnbench report` takes over 20,000 records: at most 10 s, as the command line is used, imports included.

Writes a synthetic run directory, reports it in a process of its own, and prints wall time, CPU time, memory and sizes.
Exit status 1 when it takes longer than the limit. Usage: report_speed.py [--records N] [--samples N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from attnbench.case import Case, forward_flops
from attnbench.records.measurement import KEPT_SAMPLES, Block, Measurement
from attnbench.records.record import Accuracy, Check, Record
from attnbench.timing.sampling import KEPT_DIGITS

LIMIT_S = 10.0
BACKENDS = ("hopper", "hopper[ws]", "hopper[pingpong]", "cudnn", "fa3", "fa2", "triton", "flex", "flashinfer", "naive")
# A kernel of about a millisecond fills half a second, the shortest measurement, with about this many samples.
SAMPLES = KEPT_SAMPLES
ENVIRONMENT = {
    "cpu": {"model": "synthetic", "cores": 2},
    "gpu": {"name": "synthetic", "compute_capability": "9.0", "sm_count": 132},
}


def cases() -> Iterator[Case]:
    """A sweep without end: 72 families of every mask, head_dim and GQA ratio, each over lengths and batches."""
    for batch in range(1, 1000):
        for dtype, head_dim, causal, ratio in product(
            ("fp16", "bf16", "e4m3"), (64, 128, 256), (False, True), (1, 2, 4, 8)
        ):
            for seqlen in (512, 1024, 2048, 4096, 8192, 16384):
                heads = 2048 // head_dim
                yield Case.make(dtype=dtype, head_dim=head_dim, causal=causal, num_heads=heads,
                                num_heads_kv=heads // ratio, seqlen=seqlen, batch=batch)  # fmt: skip


def record(case: Case, backend: str, samples: int, dice: random.Random) -> Record:
    """Most pass and are timed; some are unsupported, a few fail in every way there is."""
    luck = dice.random()
    if luck < 0.10:
        return Record(case, backend, "1.0", "unsupported", reason=f"{backend} takes no head_dim {case.head_dim}")
    if luck < 0.11:
        return Record(
            case, backend, "1.0", "error", kind="crash", reason="killed by SIGSEGV\n  the tail\n  of the output"
        )
    rmse = dice.uniform(1e-3, 2e-3) if luck > 0.12 else 0.1
    checks = tuple(
        Check(rule, rmse, 3e-3, rmse <= 3e-3)
        for rule in ("relative RMSE", "worst row's relative RMSE", "max error", "LSE error")
    )
    values = {"bias": 1e-6, "eager_rmse": 1.4e-3, "eager_worst_row": 1.4e-3, "eager_max_error": 1.4e-3}
    if case.is_fp8:
        values |= {"e1": rmse, "e1_emulated": rmse, "e2": 0.05, "e3": 0.05}
    accuracy = Accuracy("full", 4096, checks, values, "last timed buffers; fresh inputs")
    if not accuracy.passed:
        return Record(case, backend, "1.0", "incorrect", reason="relative RMSE", accuracy=accuracy)
    time_s = forward_flops(case) / dice.uniform(200e12, 700e12)
    taken = tuple(float(f"{time_s * dice.gauss(1, 0.005):.{KEPT_DIGITS}g}") for _ in range(samples))
    timing = Measurement((Block(taken, 10 * samples),), "events", "sustained", "cold", 1, True, prep_s=1e-4)
    return Record(case, backend, "1.0", "ok", accuracy=accuracy, measurement=timing)


def write_run(run: Path, count: int, samples: int, seed: int = 0) -> None:
    """A run directory of `count` records with `samples` kept samples each, drawn by `seed`."""
    dice = random.Random(seed)
    run.mkdir()
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (run / "suite.yaml").write_text("name: synthetic\n")
    pairs = ((case, backend) for case in cases() for backend in BACKENDS)
    with (run / "records.jsonl").open("w") as file:
        for (case, backend), _ in zip(pairs, range(count)):
            file.write(record(case, backend, samples, dice).to_json() + "\n")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--records", type=int, default=20_000)
    arguments.add_argument("--samples", type=int, default=SAMPLES, help="kept samples of each timed record")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, report = Path(folder) / "run", Path(folder) / "report.md"
        write_run(run, asked.records, asked.samples)
        command = [sys.executable, "-m", "attnbench", "report", str(run), "-o", str(report)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        start_s = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        wall_s = time.perf_counter() - start_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        plots = list(report.parent.glob("report_plots/*.svg"))
        print(
            f"report of {asked.records:,} records, {asked.samples} samples each, "
            f"{(run / 'records.jsonl').stat().st_size / 1e6:.0f} MB: {wall_s:.1f} s (at most {LIMIT_S:g} s), "
            f"CPU {used.ru_utime + used.ru_stime:.1f} s, memory {used.ru_maxrss / 1024:.0f} MB, "
            f"markdown {report.stat().st_size / 1e6:.1f} MB, {len(plots)} figures"
        )
    return int(wall_s > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
