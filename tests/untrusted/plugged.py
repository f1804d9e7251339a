"""A plugin of many backends: right ones, and such as a candidate process has to bear. All of it is harmless."""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from attnbench.backend import Base, Outputs, PrepCall

FORBIDDEN = ("attnbench.correctness", "attnbench.reference.oracle", "attnbench.records", "attnbench.worker")


def attend(q, k, v, causal, scale):
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
        scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)


class Right(Base):
    name = "right"

    def prepare(self, case, inputs):
        def call():
            out, lse = attend(inputs.q, inputs.k, inputs.v, case.causal, case.scale)
            return Outputs(out.to(inputs.q.dtype), lse)

        return call


class Doing(Right):
    """The right answer, and something that is done beside it."""

    def __init__(self, name, deed):
        self.name, self.deed = name, deed

    def prepare(self, case, inputs):
        right = super().prepare(case, inputs)

        def call():
            outputs = right()
            return self.deed(inputs, outputs) or outputs

        return call


class Copying(Right):
    """Transposes ahead of the call."""

    name = "copying"
    copies_inputs = True

    def prepare(self, case, inputs):
        copies = type(inputs)(*(x.clone() for x in (inputs.q, inputs.k, inputs.v)))
        return super().prepare(case, copies)

    def prep_call(self, case, inputs):
        return PrepCall("copies", lambda: [x.clone() for x in (inputs.q, inputs.k, inputs.v)])


class Telling(Right):
    """Says which modules its process has, and what is in its environment."""

    name = "telling"

    def warnings(self, case):
        loaded = [name for name in sys.modules if name.startswith(FORBIDDEN)]
        return [f"modules: {loaded}", f"given: {os.environ.get('SOMETHING_ELSE')}", f"folder: {tempfile.gettempdir()}"]

    def kernel_facts(self, case):
        return {"name": "told", "registers": 3}


class Kept(Right):
    """Computes once and returns that."""

    name = "kept"

    def prepare(self, case, inputs):
        right, kept = super().prepare(case, inputs), []

        def call():
            kept[:] = kept or [right()]
            return kept[0]

        return call


class Skipping(Right):
    """Once there are many input sets, computes every fourth call only."""

    name = "skipping"
    made = prepared = 0

    def prepare(self, case, inputs):
        Skipping.prepared += 1
        right = super().prepare(case, inputs)

        def call():
            Skipping.made += 1
            if Skipping.prepared > 30 and Skipping.made % 4:
                return Skipping.before
            Skipping.before = right()
            return Skipping.before

        return call


class Ticking(Right):
    """Works on in a thread when its call has returned; says when it could not."""

    name = "ticking"
    ticks = ()

    def prepare(self, case, inputs):
        right = super().prepare(case, inputs)

        def call():
            Ticking.ticks = [time.monotonic()]
            threading.Thread(target=self.tick, daemon=True).start()
            return right()

        return call

    def tick(self):
        while len(self.ticks) < 2000:
            time.sleep(0.001)
            self.ticks.append(time.monotonic())

    def warnings(self, case):
        time.sleep(0.05)
        return [f"{max(later - earlier for earlier, later in zip(self.ticks, self.ticks[1:])):.3f}"]


class Sequence(Right):
    """Keeps keys and values between calls."""

    name = "sequence"
    stateful = True

    def prepare(self, case, inputs):
        keys, values = [], []

        def call(step, q, k, v):
            keys.append(k.clone())
            values.append(v.clone())
            causal = case.causal and step == 0
            out, lse = attend(q, torch.cat(keys, 1), torch.cat(values, 1), causal, case.scale)
            return Outputs(out.to(q.dtype), lse)

        return call


class Lazy(torch.Tensor):
    pass


def segfault(inputs, outputs):
    print("about to fall")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(inputs, outputs):
    time.sleep(1000)


def fail(inputs, outputs):
    raise RuntimeError("no such tile")


def leave(inputs, outputs):
    sys.exit(3)


def write_inputs(inputs, outputs):
    inputs.k[0, 0, 0, 0] += 1


def lazy(inputs, outputs):
    return Outputs(outputs.out.as_subclass(Lazy), outputs.lse)


def same_memory(inputs, outputs):
    return Outputs(inputs.q, outputs.lse)


def fp32(inputs, outputs):
    return Outputs(outputs.out.float(), outputs.lse)


def print_endlessly(inputs, outputs):
    while True:
        os.write(1, b"x" * (1 << 22))


def fork(inputs, outputs):
    child = os.fork()
    if child:
        os.waitpid(child, 0)


def eat_memory(inputs, outputs):
    return torch.ones(1 << 40)


def write_elsewhere(inputs, outputs):
    (Path.cwd() / "written_by_a_candidate").write_text("no")


def write_scratch(inputs, outputs):
    (Path(tempfile.gettempdir()) / "kept").write_text("yes")


def reach_out(inputs, outputs):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def signal_judge(inputs, outputs):
    os.kill(os.getppid(), 0)


def talk(inputs, outputs):
    os.write(int(sys.argv[1]), b"record: ok")


def work_later(inputs, outputs):
    out = torch.zeros_like(outputs.out)
    threading.Timer(0.05, lambda: out.copy_(outputs.out)).start()
    return Outputs(out, outputs.lse)


DEEDS = (
    segfault, hang, fail, leave, write_inputs, lazy, same_memory, fp32, print_endlessly, fork, eat_memory,
    write_elsewhere, write_scratch, reach_out, signal_judge, talk, work_later,
)  # fmt: skip
BACKENDS = (
    Right(), Copying(), Telling(), Kept(), Skipping(), Sequence(), Ticking(),
    *(Doing(deed.__name__, deed) for deed in DEEDS),
)  # fmt: skip
