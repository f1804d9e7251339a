"""Threads that a library starts for itself, on every CPU that the process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from attnbench.machine.host import cpus_allowed


@contextmanager
def on_every_cpu() -> Iterator[None]:
    """Threads started inside may run on every CPU of `cpus_allowed`; afterwards the calling thread is where it was.

    NOTE: with OMP_PROC_BIND, as in a worker, torch's OpenMP binds the thread that imports it to one core. What a
    library starts later inherits that: all its threads share one core, or it counts the cores allowed and takes one.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus_allowed())
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
