"""How long `attnbench run quick` takes to show its first record, and the first that is right: at most 15 s each.

    python benchmarks/first_record.py

Once with the emulation's libraries as they are built here, once from a copy of the sources that has none, as right
after an installation. The run is interrupted then. Exit status 1 where a time is over the limit. Without a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 15.0
ROOT = Path(__file__).resolve().parent.parent
# What `attnbench` needs of a checkout.
NEEDED = ("attnbench", "kernels", "suites")
RECORD = re.compile(r"\[ *\d+/\d+\] (\w+)")


def first_records(checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds from the start of the command to its first record of each status, up to the first that is right."""
    seconds: dict[str, float] = {}
    command = [sys.executable, "-m", "attnbench", "run", "quick", "--device", "cpu", "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None, "it was asked for"
        printed = []
        for line in process.stdout:
            printed.append(line)
            shown = RECORD.match(line)
            if shown is not None:
                seconds.setdefault(shown[1], time.perf_counter() - started)
            if "ok" in seconds:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    if "ok" not in seconds:
        sys.exit(f"no record was right:\n{''.join(printed)}")
    return seconds


def main() -> int:
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        for name in NEEDED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for what, checkout in (("libraries built", ROOT), ("none built", copy)):
            folder = Path(tempfile.mkdtemp(dir=place))
            seconds = first_records(checkout, folder)
            slowest_s = max(slowest_s, *seconds.values())
            told = ", ".join(f"first {status} after {taken:.1f} s" for status, taken in seconds.items())
            print(f"{what}: {told}; limit {LIMIT_S:g} s")
    return 1 if slowest_s > LIMIT_S else 0


if __name__ == "__main__":
    sys.exit(main())
