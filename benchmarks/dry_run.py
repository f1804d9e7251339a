"""How long `attnbench run --dry-run` takes for a suite that expands to 100,000 cases: at most 3 s, printing included.

Runs the command in a process of its own, as a user does. Exit status 1 when the fastest of three is over the limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 3.0
CASES = 100_000
RUNS = 3
ROOT = Path(__file__).resolve().parent.parent
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


def write_suite(folder: Path) -> Path:
    queries = [str(2**power) for power in range(10)]
    keys = [str(50 * step) for step in range(1, 51)]
    path = folder / "large.yaml"
    path.write_text(SUITE % (", ".join(queries), ", ".join(keys)))
    return path


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder))
        walls = []
        for _ in range(RUNS):
            started = time.perf_counter()
            with open(os.path.join(folder, "printed"), "w+") as printed:
                command = [sys.executable, "-m", "attnbench", "run", str(suite), "--dry-run"]
                subprocess.run(command, cwd=ROOT, stdout=printed, check=True)
                walls.append(time.perf_counter() - started)
                printed.seek(0)
                lines = sum(1 for _ in printed)
            if lines != CASES + 1:
                sys.exit(f"{lines - 1} cases were printed, not {CASES}")
    print(f"dry run of {CASES:,} cases: fastest {min(walls):.2f} s, slowest {max(walls):.2f} s, limit {LIMIT_S} s")
    return 1 if min(walls) > LIMIT_S else 0


if __name__ == "__main__":
    sys.exit(main())
