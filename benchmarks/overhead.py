"""Where the wall time of a run goes: at least 80 % into preparing, checking, warming up and timing, oracle included.

The rest is the harness's own: starting workers, transport, writing. Runs suites/quick.yaml (a few minutes) or the suite
named, as a user would, and prints the split that the run itself reports. Exit status 1 when the share is lower.
Usage: overhead.py [SUITE]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

LEAST_SHARE = 0.80
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    suite = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "suites" / "quick.yaml")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "attnbench", "run", suite, "--out", f"{folder}/run"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    split = re.search(r"^wall time .*own overhead (-?\d+)%$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or split is None:
        sys.exit(f"the run ended with status {done.returncode}:\n{done.stdout}")
    share = 1 - int(split[1]) / 100
    print(split[0])
    print(f"{share:.0%} of the wall time in real work, at least {LEAST_SHARE:.0%} asked for")
    return 1 if share < LEAST_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
