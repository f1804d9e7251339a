"""Judges published kernels and writes docs/published-kernels.md: `make published`, or

    python -m benchmarks.published [--only NAME]... [--jobs N] [--page-only] [-o PAGE]

Each adapter's packages are installed into build/published/packages/, most without their dependencies, and kept between
calls. Its run directory is build/published/runs/ADAPTER. Nothing is timed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from benchmarks.published.adapters import HERE, Adapter, adapters
from benchmarks.published.page import PAGE, page

ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "published"
SUITE = HERE / "suite.yaml"
# A suite of one adapter takes a minute; one that takes ten times as long hangs.
LONGEST_S = 600.0
# Adapters that run at once may need the same package.
INSTALLING = threading.Lock()


def installed(requirements: Sequence[str], dependencies: bool) -> Path:
    """The folder of packages, alone or with what they depend on; installed where it is not there yet.

    Raises CalledProcessError where pip does not find one of them.
    """
    folder = BUILD / "packages" / (requirements[0] + (" and dependencies" if dependencies else ""))
    with INSTALLING:
        if folder.is_dir():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        alone = () if dependencies else ("--no-deps",)
        subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *alone,
             "--no-compile", "--target", partial, *requirements],
            check=True,
        )  # fmt: skip
        partial.rename(folder)
    return folder


def folders(adapter: Adapter) -> list[Path]:
    """What the adapter imports from beside attnbench's environment. Raises as `installed` does."""
    if adapter.dependencies:
        return [installed(adapter.requirements, dependencies=True)]
    ours = f"triton=={version('triton')}"
    return [installed([each], dependencies=False) for each in adapter.requirements if each != ours]


def judge(adapter: Adapter) -> float:
    """Runs an adapter's suite; its wall time in seconds. What it printed is beside the run directory."""
    started = time.monotonic()
    run, log = BUILD / "runs" / adapter.name, BUILD / "runs" / f"{adapter.name}.log"
    shutil.rmtree(run, ignore_errors=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        paths = folders(adapter)
    except subprocess.CalledProcessError as error:
        log.write_text(f"pip does not install {error.cmd[-1]} here\n")
        return time.monotonic() - started
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(BUILD / "home")}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    interpret = "--interpret" if adapter.interpret == "auto" else f"--interpret={adapter.interpret}"
    command = [sys.executable, "-m", "attnbench", "run", str(SUITE), "--plugin", str(adapter.file), interpret]
    command += ["--out", str(run)]
    for option, values in (("--backend", adapter.kernels), ("--only", adapter.only)):
        for value in values:
            command += [option, value]
    with log.open("w") as file:
        try:
            subprocess.run(command, env=environment, cwd=ROOT, stdout=file, stderr=file, timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            file.write(f"ended after {LONGEST_S:.0f} s\n")
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="part of an adapter's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="adapters that run at once")
    parser.add_argument("--page-only", action="store_true", help="write the page of the runs that are there")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / PAGE)
    options = parser.parse_args()
    every = adapters()
    chosen = [item for item in every if not options.only or any(part in item.name for part in options.only)]
    (BUILD / "home").mkdir(parents=True, exist_ok=True)
    if not options.page_only:
        started = time.monotonic()
        # The longest first, so that none of them is left alone at the end: jax compiles each shape for minutes.
        in_turn = sorted(chosen, key=lambda adapter: adapter.language != "pallas")
        with ThreadPoolExecutor(options.jobs) as pool:
            for adapter, spent_s in zip(in_turn, pool.map(judge, in_turn)):
                print(f"{adapter.name}: {spent_s:.0f} s", flush=True)
        print(f"{len(chosen)} adapters: {time.monotonic() - started:.0f} s")
    options.output.write_text(page(every, BUILD / "runs"))
    print(options.output)


if __name__ == "__main__":
    main()
