"""Runs independent jobs on the processors that other processes of the same test run leave; libraries stay loaded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from emulator import EmulatedKernel

from attnbench.hopper.build import build_emulated

Job = TypeVar("Job")
Result = TypeVar("Result")


def build_each(sources: Iterable[Path]) -> None:
    """Compiles kernel files for the CPU, as many at a time as there are processors. Other processes that want the same
    ones wait for them, or compile the next ones."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(build_emulated, sources))


@cache
def load(source: Path) -> EmulatedKernel:
    """A kernel file compiled and loaded once per process; the build itself is shared by content hash."""
    return EmulatedKernel.build(source)


def _start() -> None:
    # One job a processor already: torch's own threads would only spin against each other.
    torch.set_num_threads(1)


def _processors() -> int:
    """This process's share: pytest-xdist says how many of its workers run tests beside it."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@lru_cache(maxsize=1)
def _pool() -> ProcessPoolExecutor:
    """One pool for all tests: a worker takes seconds to import torch."""
    return ProcessPoolExecutor(_processors(), multiprocessing.get_context("spawn"), _start)


def run_parallel(function: Callable[[Job], Result], jobs: Iterable[Job], chunk: int = 4) -> list[Result]:
    """Results in the order of the jobs, handed out `chunk` at a time. A worker that dies fails the call.

    Never in this process: a library keeps its last schedule, mutation included, and other tests here use it too.
    """
    return list(_pool().map(function, list(jobs), chunksize=chunk))
