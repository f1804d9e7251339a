"""The programs of one launch spread over processes: with the bits, counts and hazards of one process, or not at all.

Each process is a fork: it sees memory as it was and stores into its own copy, then hands back what it stored, which
addresses it touched, and what it counted. Where two of them touched an address that one of them stored, where one
raised, or where it is not known who touched what, nothing is taken: the launch goes on in one process, which tells a
race or a hazard in its own words. So the result does not depend on how many there are.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from attnbench.interpreters.triton.memory import Counts, Memory, Storage
from attnbench.interpreters.triton.numbers import NotInterpreted

PR_SET_PDEATHSIG = 1  # prctl(2): the signal this process gets when its parent dies, however it dies
# What is left of a launch must take longer than this in one process: a fork, the pages that it copies and what it hands
# back cost 0.03 to 0.1 s.
WORTH_S = 0.4


class ProcessDied(Exception):
    """A process that ran a part of a launch ended without a result."""


class TooLong(NotInterpreted):
    """A launch that would take longer than anybody waits."""


@dataclass(frozen=True)
class Touched:
    """Of one storage by one process: units stored, their bytes (units, bytes of one), units loaded."""

    stored: Tensor
    values: Tensor
    loaded: Tensor


@dataclass(frozen=True)
class Part:
    """What one process did. touched: a storage each, of those that programs store into."""

    touched: tuple[Touched, ...]
    counts: Counts
    undefined: frozenset[str]


def possible() -> bool:
    """Whether this process may be forked. NOTE: not with jax's threads in it, of which a fork may hang."""
    return "jax" not in sys.modules and not multiprocessing.current_process().daemon


def spread(memory: Memory, run: Callable[[Tensor], None], shares: Sequence[Tensor]) -> bool:
    """Runs the programs of each share in a process of its own. False: nothing was taken, memory is as it was.

    Raises ProcessDied where one ended by itself, TooLong where one would take too long.
    """
    storages = [storage for storage in memory.storages if storage.shared]
    if not all((storage.end - storage.start) % storage.unit == 0 for storage in storages):
        return False
    parts = handed_back(memory, storages, run, shares)
    if parts is None or not all(apart([part.touched[place] for part in parts], storage)
                                for place, storage in enumerate(storages)):  # fmt: skip
        return False
    for part in parts:
        for storage, touched in zip(storages, part.touched):
            in_units(storage)[touched.stored] = touched.values
        memory.counts.add(part.counts)
        memory.undefined |= part.undefined
    return True


def apart(touched: Sequence[Touched], storage: Storage) -> bool:
    """Whether nobody touched what another one stored."""
    units = (storage.end - storage.start) // storage.unit
    stored, loaded = (torch.zeros(units, dtype=torch.bool) for _ in range(2))
    for one in touched:
        if bool(stored[one.stored].any()) or bool(stored[one.loaded].any()) or bool(loaded[one.stored].any()):
            return False
        stored[one.stored] = True
        loaded[one.loaded] = True
    return True


def in_units(storage: Storage) -> Tensor:
    """The storage's bytes, (units, bytes of one): a view."""
    return storage.view(torch.uint8).view(-1, storage.unit)


# The processes.


def handed_back(
    memory: Memory, storages: Sequence[Storage], run: Callable[[Tensor], None], shares: Sequence[Tensor]
) -> list[Part] | None:
    """By share; None as soon as one of them has nothing to hand back."""
    running: dict[Any, tuple[int, BaseProcess]] = {}
    found: dict[int, Part] = {}
    try:
        for number, share in enumerate(shares):
            ours, process = started(memory, storages, run, share)
            running[ours] = number, process
        while len(found) < len(shares):
            for ready in wait([ours for ours, (number, _) in running.items() if number not in found]):
                number, process = running[ready]
                part = received(ready, process, len(shares[number]))
                if part is None:
                    return None
                found[number] = part
    finally:
        for ours, (_, process) in running.items():
            process.kill()
            process.join()
            process.close()
            ours.close()
    return [found[number] for number in range(len(shares))]


def started(
    memory: Memory, storages: Sequence[Storage], run: Callable[[Tensor], None], share: Tensor
) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(memory, storages, run, share, theirs, os.getpid()), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads: OpenMP's, which it does not use
        process.start()
    theirs.close()
    return ours, process


def received(ours: Any, process: BaseProcess, programs: int) -> Part | None:
    try:
        part = pickle.loads(ours.recv_bytes())
    except EOFError:
        process.join()
        raise ProcessDied(f"a process that ran {programs} programs of a launch {ended(process.exitcode)}") from None
    if isinstance(part, str):
        raise TooLong(part)
    assert part is None or isinstance(part, Part), "it hands back a part"
    return part


def ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode}"


def work(
    memory: Memory, storages: Sequence[Storage], run: Callable[[Tensor], None], share: Tensor, theirs: Connection,
    parent: int,
) -> None:  # fmt: skip
    """In the new process. It ends with its parent, and hears no Ctrl-C, which is the parent's."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(1)
    torch.set_num_threads(1)  # NOTE: a fork has none of OpenMP's threads, and would wait for them
    theirs.send_bytes(pickle.dumps(result(memory, storages, run, share), protocol=pickle.HIGHEST_PROTOCOL))
    theirs.close()
    os._exit(0)  # nothing that belongs to the parent is tidied up here


def result(
    memory: Memory, storages: Sequence[Storage], run: Callable[[Tensor], None], share: Tensor
) -> Part | str | None:
    """What a share's programs did; a text: why they are not to be run; None: they are to be run in one process."""
    before = [tuple(marks.clone() for marks in storage.marks()) for storage in storages]
    memory.counts, memory.undefined = Counts(), set()
    try:
        run(share)
    except TooLong as error:
        return str(error)
    except Exception:
        return None
    if memory.untold:
        return None
    touched = tuple(_touched(storage, *marks) for storage, marks in zip(storages, before))
    return Part(touched, memory.counts, frozenset(memory.undefined))


def _touched(storage: Storage, writers: Tensor, readers: Tensor) -> Touched:
    """By marks that changed."""
    stored, loaded = ((now != then).nonzero()[:, 0] for now, then in zip(storage.marks(), (writers, readers)))
    return Touched(stored, in_units(storage)[stored], loaded)


def shares_of(programs: Tensor, count: int) -> Iterator[Tensor]:
    """Programs in turns, since neighbours cost alike, or each more than the one before."""
    return (programs[first::count] for first in range(min(count, len(programs))))
