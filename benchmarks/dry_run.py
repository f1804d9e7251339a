"""How long `attnbench run --dry-run` takes for a suite that expands to 100,000 cases: at most 3 s, printing included.

Prints wall time, processor time and peak memory of several runs, each in a process of its own, as a user starts it.
Exit status 1 when the fastest is over the limit.

    python benchmarks/dry_run.py [CHECKOUT]

With another checkout of attnbench, both take turns in one run, and the ratios to it are printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 3.0
CASES = 100_000
RUNS = 5
ROOT = Path(__file__).resolve().parent.parent
# With bytecode kept, as an installation has it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
SUITE = """
name: large
groups:
  - name: sweep
    axes:
      dtype: [fp16, bf16]
      causal: [false, true]
      head_dim: [64, 128]
      num_heads: [1, 2, 4, 8, 16]
      seed: [0, 1, 2, 3, 4]
      seqlen_q: [%s]
      seqlen_k: [%s]
    derive: {batch: 131072 / seqlen_q}
"""


@dataclass(frozen=True)
class Taken:
    """What one dry run took."""

    wall_s: float
    processor_s: float
    peak_mib: float


def write_suite(folder: Path) -> Path:
    queries = [str(2**power) for power in range(10)]
    keys = [str(50 * step) for step in range(1, 51)]
    path = folder / "large.yaml"
    path.write_text(SUITE % (", ".join(queries), ", ".join(keys)))
    return path


def dry_run(checkout: Path, suite: Path) -> Taken:
    """Exits where a case is missing from what is printed."""
    with open(suite.with_suffix(".printed"), "w+") as printed:
        started = time.perf_counter()
        command = [sys.executable, "-m", "attnbench", "run", str(suite), "--dry-run"]
        process = subprocess.Popen(command, cwd=checkout, env=ENVIRONMENT, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        lines = sum(1 for _ in printed)
    if process.returncode or lines != CASES + 1:
        sys.exit(f"{checkout}: exit status {process.returncode}, {lines - 1} cases printed, not {CASES}")
    return Taken(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> int:
    checkouts = [ROOT, *(Path(place).resolve() for place in sys.argv[1:2])]
    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder))
        for checkout in checkouts:
            dry_run(checkout, suite)  # writes the byte code
        rounds = [[dry_run(checkout, suite) for checkout in checkouts] for _ in range(RUNS)]
    own = [first for first, *_ in rounds]
    fastest_s, processor_s = min(run.wall_s for run in own), statistics.median(run.processor_s for run in own)
    print(f"dry run of {CASES:,} cases: fastest {fastest_s:.2f} s, limit {LIMIT_S} s; processor {processor_s:.2f} s, "
          f"peak memory {max(run.peak_mib for run in own):.1f} MiB")  # fmt: skip
    if len(checkouts) > 1:
        others = [second for _, second in rounds]
        processor = processor_s / statistics.median(run.processor_s for run in others)
        memory = max(run.peak_mib for run in own) / max(run.peak_mib for run in others)
        print(f"{processor:.2f} times the processor time and {memory:.2f} times the memory of {checkouts[1]}")
    return 1 if fastest_s > LIMIT_S else 0


if __name__ == "__main__":
    sys.exit(main())
