"""The worker's keeper: a process that ends whatever the worker started, in whatever session, once either of them ends.

`attnbench.run.process` starts this file as a program. It asks to be told of its parent's death and forks before it
imports anything large: the child becomes the worker; the other waits for its end, or for the parent's, then ends all
that descends from it, and goes the way the worker went.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # prctl(2): the signal this process gets when its parent dies, however it dies
PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans among its descendants become its children, in whatever session
# What does not die within that time of SIGKILL waits in a driver.
END_S = 10.0
LOOK_AGAIN_S = 0.005
# The first descriptor that is no standard stream.
FIRST = 3


def fork_worker(events: int) -> None:
    """Returns in the worker; the calling process becomes its keeper. events: descriptor of the pipe to the parent."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if _nobody_reads(events):
        os._exit(1)  # the parent died before its death was asked to be told
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
    keeper, worker = os.getpid(), os.fork()
    if worker:
        _keep(worker)
    os.setsid()  # what a kernel does to its process group is not done to the keeper
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nobody_reads(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _keep(worker: int) -> NoReturn:
    # NOTE: the pipes are the worker's alone, whose end shows there.
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor >= FIRST:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(descriptor)
    status = None
    while status is None and signal.sigwait((signal.SIGTERM, signal.SIGCHLD)) == signal.SIGCHLD:
        status = _reap().get(worker)
    _end_descendants(worker if status is None else None)
    _end_like(signal.SIGKILL if status is None else status)


def _reap() -> dict[int, int]:
    """Wait statuses of the children that have ended, by process."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            ended[child] = status
    return ended


def _end_descendants(worker: int | None) -> None:
    """Kills children, and theirs, which become children as soon as they are orphans, until there is none.

    worker: not ended yet; it is waited for as long as it takes, for nothing may be measured beside it.
    """
    deadline = time.monotonic() + END_S
    while worker is not None or time.monotonic() < deadline:
        children = list(_children())
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        if worker in _reap():
            worker = None
        if not children:
            return
        time.sleep(LOOK_AGAIN_S)


def _children() -> Iterator[int]:
    """Processes whose parent is this one."""
    own = os.getpid()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{process}/stat", errors="replace") as stat:  # it may have ended
            if int(stat.read().rpartition(")")[2].split()[1]) == own:  # the name, in brackets, may hold anything
                yield int(process)


def _end_like(status: int) -> NoReturn:
    """Ends with the worker's exit status, or by the signal that killed it, without a second core file."""
    if not os.WIFSIGNALED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    os._exit(1)  # not reached: that signal ended the worker


if __name__ == "__main__":
    fork_worker(int(sys.argv[2]))

    from attnbench.worker.worker import main  # in the worker alone: its keeper needs nothing of it

    main()
