"""How long `attnbench kernels inspect` takes for a whole library of attention kernels, and how much memory.

    python benchmarks/kernel_inspection.py [FILE]

FILE is fa3-fwd's wheel unless another one is named (`make comparison` fetches it): 98 cubins, 1026 kernels. Memory is
that of all processes together, sampled; pages that they share count once. Exit status 1 where a limit is missed: the
time is judged by CPU time, since other work on the machine is none of the program's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

WHEELS = Path("build/comparison/wheels")
# On two cores.
MOST_CPU_S, MOST_BYTES = 120.0, 1 << 30
SAMPLE_S = 0.1


def resident_bytes(root: int) -> int:
    """Proportional set size of a process and of all that it has started."""
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in os.listdir(f"/proc/{process}/task"):
                waiting += map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())
        except (OSError, StopIteration):
            continue
    return total


def main(file: Path) -> int:
    started, most = time.monotonic(), 0
    command = [sys.executable, "-m", "attnbench", "kernels", "inspect", str(file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, resident_bytes(process.pid))
        time.sleep(SAMPLE_S)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = usage.ru_utime + usage.ru_stime
    print(f"{file.name}: {time.monotonic() - started:.1f} s on {len(os.sched_getaffinity(0))} cores, load "
          f"{os.getloadavg()[0]:.1f}; {cpu_s:.1f} s of CPU time (at most {MOST_CPU_S:.0f}: 60 s on two cores), "
          f"{most / 2**20:.0f} MiB (at most {MOST_BYTES / 2**20:.0f})")  # fmt: skip
    return int(process.returncode != 0 or cpu_s > MOST_CPU_S or most > MOST_BYTES)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]] or sorted(WHEELS.glob("fa3_fwd-*.whl"))
    if not files:
        print(f"not run: no fa3_fwd wheel in {WHEELS}; make comparison fetches it, or name a file")
        sys.exit(0)
    sys.exit(main(files[0]))
