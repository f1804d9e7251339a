"""Runs probes on a GPU in a process of their own, so that one that faults or hangs costs no other its vector.

As a program, that process: `python record.py LIBRARY FOLDER NAME...` writes FOLDER/NAME.npy after each probe.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import probes

# Without a new vector for so long, a process counts as hung; it includes starting torch and CUDA.
QUIET_S = 30.0
# So many lost probes, and the machine is not looked at further: each costs a start of torch.
MOST_LOST = 3

Start = Callable[[Sequence[str]], subprocess.Popen]


def child(library: Path, folder: Path) -> Start:
    """Starts the process that runs the probes of these names in order."""
    return lambda names: subprocess.Popen([sys.executable, __file__, str(library), str(folder), *names])


def run_all(names: Sequence[str], start: Start, folder: Path, quiet_s: float = QUIET_S) -> dict[str, str]:
    """Runs every probe, in a new process behind each that is lost. Returns why the vectors that are missing are."""
    lost: dict[str, str] = {}
    waiting = list(names)
    while waiting and len(lost) < MOST_LOST:
        reason = _wait(start(waiting), folder, quiet_s)
        waiting = [name for name in waiting if not (folder / f"{name}.npy").exists()]
        if waiting:
            lost[waiting.pop(0)] = reason
    return lost | dict.fromkeys(waiting, "not run, too many others were lost")


def _wait(process: subprocess.Popen, folder: Path, quiet_s: float) -> str:
    """Until the process ends, or is killed for giving no vector for `quiet_s`. Returns how it ended."""
    count, since = 0, time.monotonic()
    while process.poll() is None:
        now = len(list(folder.glob("*.npy")))
        if now != count:
            count, since = now, time.monotonic()
        elif time.monotonic() - since > quiet_s:
            process.kill()
            process.wait()
            return f"no answer for {quiet_s:.0f} s"
        time.sleep(0.05)
    return f"exit status {process.returncode}"


def collected(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def main(library: str, folder: str, *names: str) -> None:
    loaded = ctypes.CDLL(library)
    for name in names:
        print(name, flush=True)
        vector = probes.run(loaded, probes.make_probe(name), "cuda")
        # Renamed when it is whole: a vector that is there counts as done.
        partial = Path(folder, f"{name}.partial")
        with partial.open("wb") as file:
            np.save(file, vector)
        partial.rename(Path(folder, f"{name}.npy"))


if __name__ == "__main__":
    main(*sys.argv[1:])
