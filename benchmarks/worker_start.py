"""What a worker's start costs beyond `import torch`: CPU milliseconds from its first line to the ready event, for which
its parent waits, and to its first look for a job, which comes while the parent writes down what it was told.

    python benchmarks/worker_start.py [--against CHECKOUT] [--rounds 9]

With another checkout of attnbench, both take turns in one run and the ratio is printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent
# With bytecode kept, as an installation has it: the first round, which is not counted, writes it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# A worker in this very process, whose pipe of jobs is closed: it starts, says that it is ready, and returns.
WORKER = """
import time
first = time.process_time()
import torch
imported = time.process_time()
import os, sys
sys.path.insert(0, sys.argv[1])
jobs, ended = os.pipe()
os.close(ended)
told, events = os.pipe()
sys.argv = ["worker", str(jobs), str(events), "cpu"]
try:
    from attnbench.worker.worker import Worker, main
except ImportError:  # as it stood before
    from attnbench.worker import Worker, main
start, ready = Worker.start, []
def started(self, specs):
    can = start(self, specs)
    ready.append(time.process_time())
    return can
Worker.start = started
main()
looking = time.process_time()
assert b"ready" in os.read(told, 1 << 20).lower()
print(*(1e3 * seconds for seconds in (first + ready[0] - imported, first + looking - imported, imported - first)))
os._exit(0)
"""


class Start(NamedTuple):
    """CPU milliseconds: to the ready event and to the first look for a job, both beyond `import torch`; of that."""

    ready: float
    looking: float
    torch: float


def started(checkout: Path) -> Start:
    command = [sys.executable, "-P", "-c", WORKER, str(checkout)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{checkout}: {done.stderr[-500:]}")
    return Start(*map(float, done.stdout.split()))


@click.command()
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="Another checkout of attnbench.")
@click.option("--rounds", default=9, show_default=True)
def main(against: Path | None, rounds: int) -> None:
    checkouts = [ROOT] if against is None else [ROOT, against.resolve()]
    taken: dict[Path, list[Start]] = {place: [] for place in checkouts}
    for _ in range(rounds + 1):
        for place in checkouts:
            taken[place].append(started(place))
    print(f"CPU milliseconds, medians of {rounds} rounds in turns")
    medians = {}
    for place, starts in taken.items():
        medians[place] = Start(*(statistics.median(column) for column in zip(*starts[1:], strict=True)))
        ready, looking, torch = medians[place]
        print(f"{place}: ready {ready:.0f}, looking for a job {looking:.0f}, beyond import torch ({torch:.0f})")
    if against is not None:
        here, there = medians[ROOT], medians[against.resolve()]
        print(f"ratios: ready {here.ready / there.ready:.2f}, looking for a job {here.looking / there.looking:.2f}")


if __name__ == "__main__":
    main()
