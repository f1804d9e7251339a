"""How long `attnbench gate` takes over two runs of 2,000 records: at most 5 s, as a user sees it, imports included.

Writes a stored run and a new one (512 samples a record), and a baseline of three stored runs; gates each in a process
of its own. Exit status 1 when the two runs take longer than the limit. Usage: gate_speed.py [--records N]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report_speed import SAMPLES, write_run

LIMIT_S = 5.0
ROOT = Path(__file__).resolve().parent.parent


def gate(base: Path, new: Path) -> tuple[float, float, str]:
    """(wall seconds, processor seconds, the line that counts the verdicts)"""
    command = [sys.executable, "-m", "attnbench", "gate", str(base), str(new)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    wall_s, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 3):
        sys.exit(f"gate ended with status {done.returncode}: {done.stderr}")
    processor_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, processor_s, done.stdout.splitlines()[1]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--records", type=int, default=2_000)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stored, new = Path(folder) / "stored", Path(folder) / "new"
        stored.mkdir()
        for name in "123":
            write_run(stored / name, asked.records, SAMPLES, seed=int(name))
        write_run(new, asked.records, SAMPLES)
        slow = False
        for what, base in (("two runs", stored / "1"), ("three stored runs and a new one", stored)):
            wall_s, processor_s, counted = gate(base, new)
            limit = f" (at most {LIMIT_S:g} s)" if what == "two runs" else ""
            slow |= bool(limit) and wall_s > LIMIT_S
            print(
                f"gate, {what} of {asked.records:,} records, {SAMPLES} samples each: {wall_s:.1f} s{limit}, "
                f"processor {processor_s:.1f} s; {counted}"
            )
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
