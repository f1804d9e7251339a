"""How much memory the parent process of a run takes: at most 150 MB, however much the worker does.

    python benchmarks/memory.py [CHECKOUT]

Of another checkout of attnbench too, where one is given. Runs a small suite with a few thousand samples a record and
follows the parent's peak resident memory (VmHWM). Exit status 1 when it is over the limit.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MB = 150
POLL_S = 0.02
ROOT = Path(__file__).resolve().parent.parent
SUITE = """
name: small
backends: [naive, cpu_flash]
groups:
  - name: many
    axes: {batch: 1, num_heads: 2, head_dim: 32, seqlen: [16, 32, 48, 64], dtype: [fp16, bf16], causal: [false, true]}
timing: {min_samples: 1000, min_time_s: 0.01, max_time_s: 0.3, warmup_s: 0.01, cache: warm}
"""


def peak_mb(pid: int) -> float | None:
    """Peak resident memory of a process so far, in MB (1e6 bytes); None once it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None


def parent_mb(checkout: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "small.yaml"
        suite.write_text(SUITE)
        command = [sys.executable, "-m", "attnbench", "run", str(suite), "--device", "cpu", "--out", f"{folder}/run"]
        process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, peak_mb(process.pid) or 0.0)
            time.sleep(POLL_S)
        printed, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"the run ended with status {process.returncode}:\n{printed}")
    return peak


def main() -> int:
    peak = parent_mb(ROOT)
    print(f"parent process at its peak: {peak:.1f} MB, limit {LIMIT_MB} MB")
    for place in sys.argv[1:2]:
        print(f"parent process of {place} at its peak: {parent_mb(Path(place).resolve()):.1f} MB")
    return 1 if peak > LIMIT_MB else 0


if __name__ == "__main__":
    sys.exit(main())
