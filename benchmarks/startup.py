"""How long `attnbench --help`, `list` and other commands of the reading half take to start: at most 0.2 s each.

Prints the fastest and the median wall time and the processor time of several starts; the fastest is what the program
takes, the median also what else this machine is doing. Exit status 1 when the fastest is over the limit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 0.2
STARTS = 10
COMMANDS = (
    ("--help",), ("run", "--help"), ("gate", "--help"),
    ("list", "backends"), ("list", "suites"), ("list", "inputs"), ("list", "metrics"),
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def start(arguments: tuple[str, ...]) -> tuple[float, float]:
    """(wall seconds, processor seconds) of one start"""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "attnbench", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"attnbench {' '.join(arguments)} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def main() -> int:
    slow = 0
    for arguments in COMMANDS:
        start(arguments)  # fills the file cache and writes the byte code
        walls, processor = zip(*(start(arguments) for _ in range(STARTS)))
        slow += min(walls) > LIMIT_S
        print(
            f"attnbench {' '.join(arguments):15}  fastest {min(walls):.3f} s  median {statistics.median(walls):.3f} s  "
            f"processor {statistics.median(processor):.3f} s  limit {LIMIT_S} s"
        )
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
