"""The judge's end of a candidate process: start it, ask it, and learn what became of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.backend import ContractError, HazardError, RemoteError, UnsupportedError
from attnbench.machine.host import cpus_allowed, oom_kills
from attnbench.machine.threads import on_every_cpu
from attnbench.messages import STACKS_SIGNAL
from attnbench.paths import import_folder
from attnbench.printable import printable
from attnbench.stacks import is_compiling, places
from attnbench.untrusted import wire
from attnbench.untrusted.memory import Arena, Place

# Importing torch and a plugin, on a cold disk; less than the parent of a run waits for a worker.
START_S = 150.0
# A process that has closed its end is on its way out.
EXIT_S = 5.0
# How often whoever waits for the judge hears that it waits.
ALIVE_EVERY_S = 1.0
# What a candidate prints goes on to where the judge prints, at most so much after each answer.
OUTPUT_BYTES, KEPT_OUTPUT_BYTES = 1 << 14, 1 << 20
TAIL_BYTES = 2000
# A stack is written at once, from a signal handler.
STACK_S, STACK_POLL_S, STACK_BYTES = 2.0, 0.05, 1 << 16
REASON_CHARACTERS = 2000
KINDS = ("contract", "exception", "hazard", "oom", "unsupported")
# Variables that a candidate has: of Python, of the libraries that compute, of where programs and their parts lie.
# Whatever else is in the environment, tokens and addresses, it has not; nor caches, which it may not write to.
VARIABLES = re.compile(
    r"(?!\w*CACHE)(PATH|LANG|LC_\w+|TZ|TERM|LD_LIBRARY_PATH|PYTHON\w*|OMP_\w+|GOMP_\w+|KMP_\w+|MKL_\w+|OPENBLAS_\w+|ONEDNN_\w+"
    r"|ATEN_\w+|TORCH\w*|PYTORCH_\w+|TRITON_\w+|CUDA_\w+|NVIDIA_\w+|CC|CXX|ATTNBENCH_\w+)"
)


@dataclass
class Patience:
    """How long a call may take, and whom to tell that it is waited for. Set anew for each case."""

    call_s: float = 60.0
    compile_s: float = 600.0
    alive: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Setup:
    """What all candidates of a worker have in common. threads: of torch, 0: as the environment says. protection: what
    `confine` is given, empty for a process that runs nothing but ours."""

    threads: int
    patience: Patience = field(default_factory=Patience)
    protection: Mapping[str, Any] = field(default_factory=dict)


class Candidate:
    """A process that runs one plugin, or, with no spec, nothing but empty hand-overs. Raises RemoteError from `start`,
    and from whatever is asked of it; once it has ended, from everything.

    It is stopped, with what it started, whenever nothing is asked of it: it works ahead for no call, and takes no core
    from what else is timed.
    """

    def __init__(self, spec: str | None, setup: Setup):
        self.spec, self.setup = spec, setup
        self.arena = Arena("attnbench")
        self.dropped: list[int] = []  # calls that nobody holds any more, to be told with the next message
        self.slots: Any = None  # who has the control page now; see `handover`
        self.ended = ""
        self.heard_ns = 0  # when it was heard last, by `perf_counter_ns`
        self._oom_kills = oom_kills()
        self._sent: set[int] = set()
        self._numbers = 0
        self._shown = self._stack_shown = 0
        self.scratch = Path(tempfile.mkdtemp(prefix="attnbench-candidate-"))
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # `end` closes it
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_APPEND)  # so that it may be cut while it is written to
        self._stacks = os.memfd_create("attnbench-stacks", os.MFD_CLOEXEC)
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end, theirs = wire.pair()
        with theirs, on_every_cpu():
            self._process = self._started(theirs.fileno())
        self._poll = select.poll()
        self._poll.register(self._end, select.POLLIN)
        self._poll_done = select.poll()
        for descriptor in (self._end.fileno(), self._done):
            self._poll_done.register(descriptor, select.POLLIN)

    def _started(self, control: int) -> subprocess.Popen[bytes]:
        protection = {**self.setup.protection, "scratch": str(self.scratch)} if self.spec is not None else {}
        options = {"spec": self.spec, "threads": self.setup.threads, "cpus": cpus_allowed(), "protection": protection}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "attnbench.untrusted.candidate",
             *map(str, (control, self._done, self._stacks)), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(control, self._done, self._stacks),
            env=environment(self.scratch),
            start_new_session=True,
        )  # fmt: skip

    def start(self) -> dict[str, Any]:
        """What it says of itself."""
        if not self._heard(self._poll, START_S):
            raise RemoteError("timeout", f"it did not start within {START_S:g} s")
        said = self._message()
        self.hold()
        self.show_output()
        return said

    def ask(self, op: str, places_named: Iterable[Place] = (), **values: Any) -> Any:
        """What it answers. places_named: of all tensors that the message names."""
        number = self.tell(op, places_named, **values)
        return self.answer(number)

    def tell(self, op: str, places_named: Iterable[Place] = (), **values: Any) -> int:
        if self.ended:
            raise RemoteError("crash", self.ended)
        self._numbers += 1
        new = sorted({place.segment for place in places_named} - self._sent)
        ended, self.arena.ended = self.arena.ended, []
        dropped, self.dropped = self.dropped, []
        message = {"id": self._numbers, "op": op, "segments": new, "ended": ended, "dropped": dropped, **values}
        self.go_on()
        try:
            wire.send(self._end, message, [self.arena.descriptor(number) for number in new])
        except OSError:
            raise self._death() from None
        self._sent.update(new)
        return self._numbers

    def answer(self, number: int, said: dict[str, Any] | None = None) -> Any:
        """What it answers, or has (`said`). Raises what the backend raised."""
        said = said or self.next_message()
        self.hold()
        self.show_output()
        if said.get("id") != number:
            raise self.broken(f"it answered {str(said)[:60]!r}, which nobody asked")
        if "error" not in said:
            return said.get("value")
        kind, reason = said["error"], printable(str(said.get("reason")))[:REASON_CHARACTERS]
        if kind not in KINDS:
            raise self.broken(f"it answered an error of kind {str(kind)[:60]!r}")
        known = {"contract": ContractError, "hazard": HazardError, "unsupported": UnsupportedError}
        raise known[kind](reason) if kind in known else RemoteError(kind, reason)

    def next_message(self) -> dict[str, Any]:
        """Waits as long as a call may take, or as compiling may where that is what it does."""
        self._wait(self._poll)
        return self._message()

    def done(self) -> bool:
        """Waits likewise until it says that the calls of a hand-over are done; False where it answers instead."""
        if self._done not in self._wait(self._poll_done):
            return False
        os.eventfd_read(self._done)
        return True

    def _wait(self, poll: select.poll) -> list[int]:
        """The descriptors that have something to say, and `heard_ns`, when they had. Raises what is overdue."""
        patience = self.setup.patience
        spent_s, compiling = 0.0, False
        while True:
            wait_s = min(patience.call_s, patience.compile_s - spent_s) if compiling else patience.call_s
            if ready := self._heard(poll, wait_s):
                return ready
            spent_s += wait_s
            stacks = self._stack_text()
            was_compiling, compiling = compiling, is_compiling(stacks)
            if spent_s >= patience.compile_s if compiling else not was_compiling:
                raise self._overdue(compiling, places(stacks))

    def _heard(self, poll: select.poll, limit_s: float) -> list[int]:
        """The same within so many seconds; none where nothing is said."""
        deadline = time.monotonic() + limit_s
        while True:
            left_s = deadline - time.monotonic()
            if ready := poll.poll(1000 * max(0.0, min(left_s, ALIVE_EVERY_S))):
                self.heard_ns = time.perf_counter_ns()
                return [descriptor for descriptor, _ in ready]
            if left_s <= 0:
                return []
            self.setup.patience.alive()

    def _message(self) -> dict[str, Any]:
        """The message that is there."""
        try:
            message, descriptors = wire.receive(self._end)
        except wire.WireError as error:
            raise self.broken(str(error)) from None
        except OSError:
            raise self._death() from None
        for descriptor in descriptors:
            os.close(descriptor)
        if message is None:
            raise self._death()
        return message

    def broken(self, words: str) -> RemoteError:
        """It is ended for what it wrote; the error to raise."""
        self.end(f"the candidate process was ended: {words}")
        return RemoteError("contract", self.ended)

    def _overdue(self, compiling: bool, at: str) -> RemoteError:
        patience, doing = self.setup.patience, f"; it was at {at}" if at else ""
        limit = f"compiling took more than {patience.compile_s:g} s; it was ended (compile_timeout_s)"
        if not compiling:
            limit = f"a call did not return within {patience.call_s:g} s; it was ended (timeout_s, --timeout)"
        self.end("the candidate process was ended, since a call did not return")
        return RemoteError("timeout", limit + doing)

    def _death(self) -> RemoteError:
        """It has ended, or is about to; the error to raise."""
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return self.broken("it closed the socket to the judge")
        self.show_output()
        tail = self._tail()
        how, kind = f"exited with status {code}", "crash"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL and oom_kills() > self._oom_kills:
                how, kind = "was killed by the kernel: out of host memory", "oom"
        self.end(f"the candidate process {how}")
        return RemoteError(kind, f"{self.ended}; its last output: {tail}" if tail else self.ended)

    def end(self, why: str = "the candidate process was ended") -> None:
        """Ends it and what it left in its scratch folder."""
        if self.ended:
            return
        self.ended = why
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.show_output()
        self._end.close()
        self._output.close()
        os.close(self._stacks)
        os.close(self._done)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def hold(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To it and to its descendants, which seccomp keeps in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def show_output(self) -> None:
        """Hands on what it has printed, up to a limit."""
        size = os.fstat(self._output.fileno()).st_size
        if size > self._shown:
            text = os.pread(self._output.fileno(), min(size - self._shown, OUTPUT_BYTES), self._shown)
            self._shown = size
            with contextlib.suppress(OSError):
                os.write(1, text)
        if size > KEPT_OUTPUT_BYTES:  # or there would be no room left for those after one that prints endlessly
            os.ftruncate(self._output.fileno(), 0)
            self._shown = 0

    def _tail(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        text = re.sub(r'File "[^"]*/', 'File "', text.strip())
        for path in (str(self.scratch), sys.prefix, import_folder(), os.getcwd(), str(Path.home())):
            text = text.replace(path + "/", "")
        return printable(text)

    def _stack_text(self) -> str:
        before = os.fstat(self._stacks).st_size
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(STACKS_SIGNAL)
        deadline, size = time.monotonic() + STACK_S, before
        while time.monotonic() < deadline:
            time.sleep(STACK_POLL_S)
            last, size = size, os.fstat(self._stacks).st_size
            if last == size > before:
                break
        return os.pread(self._stacks, min(size - before, STACK_BYTES), before).decode(errors="replace")


def environment(scratch: Path) -> dict[str, str]:
    """What a candidate has of this process's environment: this very attnbench, and its scratch folder as its home."""
    kept = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
    path = os.pathsep.join(filter(None, (import_folder(), kept.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
    return {**kept, **own, "HOME": str(scratch), "TMPDIR": str(scratch), "XDG_CACHE_HOME": str(scratch)}
