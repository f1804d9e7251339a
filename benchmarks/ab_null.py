"""`attnbench ab` of a revision against itself: how many end in a confirmed regression; and is a planted slowdown found?

Makes a small git repository with one plugin kernel, compares its first revision with itself N times (default 20), and
then with a second revision that does PERCENT (default 5) more work. All on one CPU core, whatever else the machine
does. Exit status 1 when an A/A ends in a confirmed regression. Usage: ab_null.py [N] [PROCESSES] [PERCENT]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS, PROCESSES, PERCENT = 20, 5, 5
UNITS = 100  # of work in a call
KERNEL = """
import torch

UNITS = {units}
PAD = torch.randn(64, 64)


def mine(q, k, v, *, causal, softmax_scale):
    pad = PAD
    for _ in range(UNITS):
        pad = torch.tanh(pad @ PAD)
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) * softmax_scale
    out = scores.softmax(dim=-1) @ v
    return out.transpose(1, 2).contiguous().to(torch.float16)
"""
SUITE = """
name: short
groups:
  - {name: short, axes: {dtype: fp16, head_dim: 32, causal: false, seqlen: [32, 64], batch: 1, num_heads: 1}}
timing: {min_samples: 20, min_time_s: 0.05, max_time_s: 0.5, warmup_s: 0.02, cache: warm}
checks: {repeats: 0}
"""


def main() -> int:
    given = [int(argument) for argument in sys.argv[1:]]
    runs, processes, percent = given + [RUNS, PROCESSES, PERCENT][len(given) :]
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder), percent)
        statuses = [compared(repository, "base", "base", processes, place) for place in range(runs)]
        slower = compared(repository, "base", "slower", processes, runs)
    regressions = statuses.count(1)
    print(f"{regressions} of {runs} A/A comparisons ended in a confirmed regression ({processes} processes each)")
    print(f"planted {percent} %: {'found' if slower == 1 else 'not found'} (exit status {slower})")
    return 1 if regressions else 0


def make_repository(folder: Path, percent: int) -> Path:
    repository = folder / "repository"
    repository.mkdir()
    (repository / "suite.yaml").write_text(SUITE)
    git(repository, "init", "--quiet")
    for tag, units in (("base", UNITS), ("slower", round((1 + percent / 100) * UNITS))):
        (repository / "kernel.py").write_text(KERNEL.format(units=units))
        git(repository, "add", ".")
        git(repository, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", tag)
        git(repository, "tag", tag)
    return repository


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def compared(repository: Path, base: str, head: str, processes: int, place: int) -> int:
    """The exit status of one `ab`, with a line about it."""
    started = time.monotonic()
    options = [
        "--plugin",
        "kernel.py:mine",
        "--device",
        "cpu",
        "--processes",
        str(processes),
        "--out",
        f"../out{place}",
    ]
    command = [sys.executable, "-m", "attnbench", "ab", "--base", base, "--head", head, "suite.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=repository, env=environment, text=True, stdout=subprocess.PIPE)
    mean = re.search(r"^geometric mean: (.*)$", done.stdout, re.MULTILINE)
    floor = re.search(r"^margin: (.*)$", done.stdout, re.MULTILINE)
    again = "; measured again" if "to be measured again" in done.stdout else ""
    told = f"{mean[1]}; margin {floor[1]}{again}" if mean and floor else done.stdout.strip()[-300:]
    print(f"{place + 1}: {head} against {base}: exit status {done.returncode}, {told}, "
          f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
