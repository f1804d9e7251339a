"""The parent's end of a worker: start it, send jobs, read events with a deadline, and learn how it died."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attnbench.errors import UserError
from attnbench.machine.host import oom_kills
from attnbench.messages import (
    STACKS_SIGNAL,
    TRUSTED,
    UNTRUSTED,
    Event,
    Job,
    MessageError,
    Ready,
    Refused,
    event_of,
    to_line,
)
from attnbench.paths import PACKAGE, import_folder

# Importing torch and opening a CUDA device, on a cold disk.
START_TIMEOUT_S = 180.0
# A process that has closed its end of the event pipe is on its way out; one that is not by then never will be.
EXIT_TIMEOUT_S = 5.0
# A killed process ends at once, unless it waits inside a driver that hangs.
KILL_TIMEOUT_S = 60.0
TAIL_BYTES = 4000
# What a signal says of a library.
MEANING = {signal.SIGILL: ": an instruction that this CPU lacks, as of a library compiled for another one"}
# The program that becomes a worker and its keeper.
KEEPER = str(PACKAGE / "worker" / "keeper.py")
# A stack is written at once, from a signal handler; a process that waits inside a driver writes none.
STACK_TIMEOUT_S, STACK_POLL_S = 2.0, 0.05
READ_BYTES = 1 << 16


class WorkerRefused(Exception):
    """The worker said why it cannot work: a plugin that does not import, a device that is not there."""


class WorkerDied(Exception):
    """The worker ended by itself. kind is "oom" when the kernel's out-of-memory killer struck, else "crash".

    As text: the reason and the end of what it printed; `brief` is one line.
    """

    def __init__(self, reason: str, kind: str = "crash", output: str = ""):
        super().__init__(f"{reason}; its last output: {output}" if output else reason)
        self.kind = kind
        self.brief = f"{reason}: {_gist(output)}" if output else reason


class WorkerSilent(Exception):
    """Nothing was heard within the time allowed."""


class WorkerStuck(Exception):
    """The worker was killed and does not end: it holds the device, and nothing can be measured beside it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker works, if not where its parent does: its folder, and what it imports from beside this package."""

    folder: Path
    import_path: tuple[str, ...]


class WorkerProcess:
    """One measuring process. What it prints goes to a file of its own, whose tail explains a crash."""

    def __init__(
        self, device: str, plugins: Sequence[str], place: Place | None = None, interpret: str = "",
        trust: str = TRUSTED,
    ):  # fmt: skip
        """interpret: the mode of interpreters, "" for none. trust: a member of `messages.TRUST`."""
        jobs_read, jobs_write = _pipe()
        events_read, events_write = _pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # it is `kill` that closes it
        self._stacks = _inherited_file()
        self._shown = 0  # bytes of the output that `new_output` has given
        self._folder = str(place.folder if place else Path.cwd())
        self._oom_kills = oom_kills()
        # Scratch folders of candidates: a worker that is killed removes nothing.
        self._scratch = tempfile.TemporaryDirectory(prefix="attnbench-") if trust == UNTRUSTED else None
        given = (jobs_read, events_write, self._stacks.fileno())
        self._process = subprocess.Popen(
            # NOTE: -P, or whatever lies in the worker's folder would take the place of any module, of this package too.
            [
                sys.executable,
                "-P",
                KEEPER,
                *map(str, (jobs_read, events_write, self._stacks.fileno())),
                device,
                interpret,
                trust,
                *plugins,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=given,
            cwd=place.folder if place else None,
            env=_environment(place) | ({"TMPDIR": self._scratch.name} if self._scratch else {}),
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        os.close(jobs_read)
        os.close(events_write)
        self._jobs = os.fdopen(jobs_write, "w")
        self._events = events_read
        self._watched = [events_read, *_exit_descriptors(self._process.pid)]
        self._buffer = b""

    def start(self) -> Ready:
        """The ready event. Raises WorkerRefused or WorkerDied."""
        try:
            event = self.next_event(START_TIMEOUT_S)
        except WorkerSilent:
            late = f"the worker did not start within {START_TIMEOUT_S:.0f} s"
            raise WorkerDied(late, output=self._tail()) from None
        if isinstance(event, Refused):
            raise WorkerRefused(event.reason)
        if not isinstance(event, Ready):
            raise WorkerDied(f"its first words were {type(event).__name__}", output=self._tail())
        return event

    def submit(self, job: Job) -> None:
        self._output_start = self._output.seek(0, os.SEEK_END)
        try:
            self._jobs.write(to_line(job) + "\n")
            self._jobs.flush()
        except BrokenPipeError:
            pass  # it is dead; reading its events says how

    def next_event(self, timeout_s: float) -> Event:
        """The next event. Raises WorkerSilent after timeout_s without one, WorkerDied when there will be none."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select(self._watched, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise WorkerSilent
            # NOTE: its own children may hold the pipe open after its death, so its end does not always show there.
            chunk = os.read(self._events, READ_BYTES) if self._events in ready else b""
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return event_of(line)
        except MessageError:
            raise WorkerDied(f"it wrote into the event pipe: {line[:100]!r}", output=self._tail()) from None

    def stacks(self) -> str:
        """What each of its threads is doing, as `attnbench.stacks` reads it; "" where it does not say."""
        stacks = self._stacks.fileno()  # NOTE: sought by nobody, since the worker shares its place in the file
        before = size = os.fstat(stacks).st_size
        if not before:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(os.pread(stacks, before, 0).partition(b"\n")[0]), STACKS_SIGNAL)
        deadline = time.monotonic() + STACK_TIMEOUT_S
        while time.monotonic() < deadline:
            time.sleep(STACK_POLL_S)
            last, size = size, os.fstat(stacks).st_size
            if last == size > before:
                break
        return os.pread(stacks, size - before, before).decode(errors="replace")

    def new_output(self) -> str:
        """What it has printed since this was asked the last time."""
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), size - self._shown, self._shown)
        self._shown = size
        return text.decode(errors="replace")

    def kill(self) -> None:
        """Ends the worker and everything it started, whatever state it is in. Raises WorkerStuck where it cannot."""
        # The worker's keeper, which ends all the rest first (attnbench/worker/keeper.py); it goes on if it was stopped.
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise WorkerStuck(
                f"the worker process {self._process.pid} was killed and did not end within {KILL_TIMEOUT_S:g} s; it "
                "waits in a driver, and nothing can be measured beside it: restart the device or the machine"
            ) from None
        self._jobs_close()
        for descriptor in self._watched:
            os.close(descriptor)
        self._output.close()
        self._stacks.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _jobs_close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._jobs.close()

    def _death(self) -> WorkerDied:
        try:
            code = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return WorkerDied("the worker closed the pipe that it reports through", output=self._tail())
        tail = self._tail()
        if code >= 0:
            return WorkerDied(f"the worker process exited with status {code}", output=tail)
        ended_by = signal.Signals(-code)
        if ended_by is signal.SIGKILL and oom_kills() > self._oom_kills:
            return WorkerDied("killed by the kernel: out of host memory", kind="oom", output=tail)
        return WorkerDied(f"the worker process was killed by {ended_by.name}{MEANING.get(ended_by, '')}", output=tail)

    def _tail(self) -> str:
        """The end of what the worker printed since its last job, in whole lines, without this machine's paths."""
        start, size = getattr(self, "_output_start", 0), self._output.seek(0, os.SEEK_END)
        self._output.seek(max(start, size - TAIL_BYTES))
        text = self._output.read().decode(errors="replace")
        if size - TAIL_BYTES > start:
            text = text.partition("\n")[2] or text
        text = text.strip()
        text = re.sub(r'File "[^"]*/', 'File "', text)  # frames by their file's own name
        for path in (sys.prefix, import_folder(), self._folder, str(Path.home())):
            text = text.replace(path + "/", "")
        return text


def _gist(output: str) -> str:
    """One line of what a dying process printed: a fatal error and where it struck, or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    fatal = next((index for index, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return lines[-1] if lines else ""
    frames = [line for line in lines[fatal:] if line.startswith("File ")]
    return " < ".join([lines[fatal], *frames[:2]])


def _pipe() -> tuple[int, int]:
    """A pipe with no end at 0, 1 or 2, where a child has its standard streams, whichever of these are closed here."""
    ends = os.pipe()
    moved = tuple(map(_moved, ends))
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def _inherited_file() -> IO[bytes]:
    """A temporary file that a child has under the same number, which is therefore none of these either."""
    with tempfile.TemporaryFile() as file:
        return os.fdopen(_moved(file.fileno()), "w+b")


def _moved(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def _exit_descriptors(pid: int) -> list[int]:
    """A descriptor that becomes readable when the process ends; none where the system has no pidfd_open(2)."""
    try:
        return [os.pidfd_open(pid)]
    except (AttributeError, OSError):
        return []


def _environment(place: Place | None) -> dict[str, str]:
    """The worker prints at once, shows where a segmentation fault struck, pins its threads to cores, and numbers the
    GPUs as NVML does."""
    given = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "OMP_PROC_BIND": "close",
        "OMP_PLACES": "cores",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    # Nothing that the worker starts imports from the folder it is in either.
    return {**given, **os.environ, "PYTHONPATH": _import_path(place), "PYTHONSAFEPATH": "1"}


def _import_path(place: Place | None) -> str:
    """This very attnbench for the worker, whatever its working directory; an empty part would stand for that."""
    further = place.import_path if place else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in (import_folder(), *further) if part)


class RunError(UserError):
    """A run that cannot begin or go on; the message names the thing and the way out."""
