"""How long `attnbench --help`, `list` and other commands of the reading half take to start: at most 0.2 s each.

Prints the fastest and the median wall time and the processor time of several starts; the fastest is what the program
takes, the median also what else this machine is doing. Exit status 1 when the fastest is over the limit.

    python benchmarks/startup.py [CHECKOUT]

With another checkout of attnbench, both take turns in one run, and the ratio of their processor times is printed.
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
# With bytecode kept, as an installation has it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def start(checkout: Path, arguments: tuple[str, ...]) -> tuple[float, float]:
    """(wall seconds, processor seconds) of one start"""
    started = time.perf_counter()
    command = [sys.executable, "-m", "attnbench", *arguments]
    process = subprocess.Popen(command, cwd=checkout, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"attnbench {' '.join(arguments)} in {checkout} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def main() -> int:
    checkouts, slow = [ROOT, *(Path(place).resolve() for place in sys.argv[1:2])], 0
    for arguments in COMMANDS:
        for checkout in checkouts:
            start(checkout, arguments)  # fills the file cache and writes the byte code
        rounds = [[start(checkout, arguments) for checkout in checkouts] for _ in range(STARTS)]
        walls, processor = zip(*(first for first, *_ in rounds))
        slow += min(walls) > LIMIT_S
        told = f"fastest {min(walls):.3f} s  median {statistics.median(walls):.3f} s"
        told += f"  processor {statistics.median(processor):.3f} s  limit {LIMIT_S} s"
        if len(checkouts) > 1:
            ratio = statistics.median(processor) / statistics.median(second for _, (_, second) in rounds)
            told += f"  {ratio:.2f} times the other's"
        print(f"attnbench {' '.join(arguments):15}  {told}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
