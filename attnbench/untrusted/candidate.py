"""The main of a candidate process: it imports one plugin and makes the calls that the judge asks for.

It holds no judge, no oracle and no store, and is told nothing of them: cases, inputs in shared memory, and where the
outputs are to go. What it answers is believed of nothing but itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attnbench import plugins
from attnbench.backend import Base, ContractError, HazardError, Inputs, Outputs, Quantized, UnsupportedError
from attnbench.breakpoints import NO_TERMINAL, NoTerminalError, breakpointhook, is_debugger_quitting
from attnbench.case import Case
from attnbench.contract import check_contract, poisoned_memory
from attnbench.errors import UserError
from attnbench.failures import is_out_of_memory, raised
from attnbench.messages import STACKS_SIGNAL
from attnbench.untrusted import wire
from attnbench.untrusted.confine import confine
from attnbench.untrusted.memory import Place, Segment
from attnbench.untrusted.traits import declared

if TYPE_CHECKING:
    from torch import Tensor

# Languages of kernels that need a GPU, by the module that a plugin imports for them.
LANGUAGES = {"Triton": "triton", "Pallas": "jax.experimental.pallas"}
# The word of the control page that says go: the number of a hand-over.
GO = 0
WORD_BYTES = 8
# Looks at the control page before the core is given to others, and how long they go on before it sleeps between looks:
# the judge sets the word as soon as it is told that everything is ready.
LOOKS, YIELDING_S, ASLEEP_S = 2000, 0.02, 50e-6
# Of each thread: torch shares out an operation on more elements than this (at::internal::GRAIN_SIZE).
PARALLEL_ELEMENTS = 32768
# Characters of a text that it says of itself.
TEXT_CHARACTERS = 2000


def main() -> None:
    """Arguments: descriptors of the socket to the judge, of the eventfd that says done and of a file for stacks, then
    the options as JSON."""
    control, done, stacks_fd = map(int, sys.argv[1:4])
    options = json.loads(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(STACKS_SIGNAL, open(stacks_fd, "w"))  # noqa: SIM115  # for as long as the process lives
    sys.breakpointhook = breakpointhook
    os.sched_setaffinity(0, options["cpus"])
    missing = confine(options["protection"]) if options["protection"] else []
    import torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    torch.backends.cuda.matmul.allow_tf32 = False
    with socket.socket(fileno=control) as end:
        Candidate(end, done).serve(options["spec"], missing)


@dataclass(frozen=True, slots=True)
class Held:
    """A prepared call, and what its outputs have to fit to; case: None where nobody judges what it returns."""

    call: Callable[..., Any]
    case: Case | None = None
    inputs: Inputs | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the outputs of one call go."""

    out: Tensor
    lse: Tensor

    def touch(self) -> None:
        """Writes one number of each, so that the first copy of a hand-over is as fast as the others."""
        for tensor in (self.out, self.lse):
            first = tensor.flatten()[:1]
            first.copy_(first.clone())

    def take(self, outputs: Outputs) -> None:
        self.out.copy_(outputs.out)
        if outputs.lse is not None:
            self.lse.copy_(outputs.lse)


class Candidate:
    def __init__(self, end: socket.socket, done: int):
        import torch

        self._end, self._done, self._process = end, done, os.getpid()
        self._backends: dict[str, Base] = {}
        self._held: dict[int, Held] = {}
        self._segments: dict[int, Segment] = {}
        self._slots: list[Slot] = []
        self._control: memoryview | None = None
        self._made = 0
        # NOTE: torch's threads sleep soon after they have worked, and to wake them takes the first call of a hand-over
        # as long as many calls; where calls share a process with what changes their inputs, they are awake.
        self._pool_waker = torch.zeros(torch.get_num_threads() * PARALLEL_ELEMENTS)
        os.register_at_fork(after_in_child=self._mute)

    def _mute(self) -> None:
        """In a child that a kernel forks: it does not speak for this process."""
        self._end.close()
        os.close(self._done)

    def serve(self, spec: str | None, missing: Sequence[str]) -> None:
        """Says which backends there are, then answers until the judge is gone."""
        wire.send(self._end, self._hello(spec, missing))
        while True:
            message, descriptors = wire.receive(self._end)
            if message is None:
                return
            answer = self._answer(message, descriptors)
            if os.getpid() != self._process:
                os._exit(0)  # a child that a kernel forked and that came back from its call
            wire.send(self._end, {"id": message["id"], **answer})

    def _hello(self, spec: str | None, missing: Sequence[str]) -> dict[str, Any]:
        try:
            if spec is not None:
                self._backends = plugins.load([spec], known={}) if spec else plugins.installed()
            languages = [name for name, module in LANGUAGES.items() if module in sys.modules]
            backends = [declared(backend) for backend in self._backends.values()]
        except UserError as error:
            return {"refused": str(error)[:TEXT_CHARACTERS]}
        return {"backends": backends, "languages": languages, "missing": list(missing)}

    def _answer(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
        for number, descriptor in zip(message.get("segments", ()), descriptors, strict=True):
            self._segments[number] = Segment.mapped(number, descriptor)
        for number in message.get("ended", ()):
            self._segments.pop(number, None)
        for number in message.get("dropped", ()):
            self._held.pop(number, None)
        try:
            return {"value": getattr(self, f"_do_{message['op']}")(message)}
        except BaseException as error:  # a plugin may raise anything, SystemExit included
            return failure(error)

    # What the judge may ask.

    def _do_unavailable(self, message: Mapping[str, Any]) -> Any:
        return _text_or_none(self._backends[message["backend"]].unavailable())

    def _do_unsupported(self, message: Mapping[str, Any]) -> Any:
        backend, case = self._asked(message)
        reason = backend.unsupported(case)
        if reason and not isinstance(reason, str):
            raise ContractError(f"unsupported() returned {reason!r}; return a reason as text, or None")
        return _text_or_none(reason)

    def _do_build(self, message: Mapping[str, Any]) -> None:
        self._backends[message["backend"]].build()

    def _do_extra_bytes(self, message: Mapping[str, Any]) -> int:
        backend, case = self._asked(message)
        return int(backend.extra_bytes(case))

    def _do_warnings(self, message: Mapping[str, Any]) -> list[str]:
        backend, case = self._asked(message)
        return [str(text)[:TEXT_CHARACTERS] for text in backend.warnings(case)]

    def _do_kernel_facts(self, message: Mapping[str, Any]) -> Any:
        backend, case = self._asked(message)
        facts = backend.kernel_facts(case)
        try:
            return None if facts is None else json.loads(json.dumps(dict(facts)))
        except (TypeError, ValueError) as error:
            raise ContractError(f"kernel_facts() returned what JSON cannot hold: {error}") from None

    def _do_prepare(self, message: Mapping[str, Any]) -> int:
        backend, case = self._asked(message)
        inputs = self._inputs(message["inputs"])
        with poisoned_memory() if message["poisoned"] else contextlib.nullcontext():
            return self._hold(Held(backend.prepare(case, inputs), case, inputs))

    def _do_prep_call(self, message: Mapping[str, Any]) -> Any:
        backend, case = self._asked(message)
        prep = backend.prep_call(case, self._inputs(message["inputs"]))
        return (
            None if prep is None else {"about": str(prep.about)[:TEXT_CHARACTERS], "held": self._hold(Held(prep.call))}
        )

    def _do_call(self, message: Mapping[str, Any]) -> Any:
        """One call, its outputs held to the contract and copied to a slot."""
        held = self._held[message["held"]]
        case, inputs, arguments = held.case, held.inputs, []
        if "given" in message:  # a step of a sequence
            inputs = self._inputs(message["given"])
            arguments = [message["step"], inputs.q, inputs.k, inputs.v]
            case = None if case is None else replace(case, calls=1, seqlen_q=inputs.q.shape[1])
        with poisoned_memory() if message["poisoned"] else contextlib.nullcontext():
            outputs = held.call(*arguments)
        if case is None or inputs is None:
            return None
        check_contract(case, inputs, outputs)
        self._slot(message["slot"]).take(outputs)
        return {"lse": outputs.lse is not None}

    def _do_ready_output(self, message: Mapping[str, Any]) -> int:
        """A call that returns a ready output of the slot's shape: of an empty hand-over."""
        slot = self._slot(message["slot"])
        outputs = Outputs(slot.out.clone(), slot.lse.clone() if message["lse"] else None)
        return self._hold(Held(lambda: outputs))

    def _do_control(self, message: Mapping[str, Any]) -> None:
        """The page whose word says go; slots for what is handed over after it come next."""
        segment, offset = message["page"]
        self._control = memoryview(self._segments[segment])[offset : offset + WORD_BYTES].cast("Q")
        self._slots = []

    def _do_more_slots(self, message: Mapping[str, Any]) -> None:
        self._slots += [self._slot(words) for words in message["slots"]]

    def _do_run(self, message: Mapping[str, Any]) -> Any:
        """A hand-over: once the judge says go, each call in turn, its outputs copied to the slot of its place."""
        number, control, slots = message["number"], self._control, self._slots
        assert control is not None, "the control page comes ahead of the first hand-over"
        held = [self._held[one] for one in message["calls"]]
        calls = [one.call for one in held]
        self._pool_waker.add_(1)
        wire.send(self._end, {"ready": number})
        slots[0].touch()
        _wait_for(control, GO, number)
        for call, slot in zip(calls, slots):
            outputs = call()
            slot.take(outputs)
        os.eventfd_write(self._done, 1)
        last = held[-1]
        if last.case is not None and last.inputs is not None:
            check_contract(last.case, last.inputs, outputs)
        return {"lse": outputs.lse is not None}

    def _asked(self, message: Mapping[str, Any]) -> tuple[Base, Case]:
        return self._backends[message["backend"]], Case.make(**message["case"])

    def _hold(self, held: Held) -> int:
        self._made += 1
        self._held[self._made] = held
        return self._made

    def _tensor(self, words: Sequence[Any]) -> Tensor:
        place = Place.of(words)
        segment = self._segments[place.segment]
        tensor = place.tensor(segment)
        if tensor.is_contiguous():
            segment.populate(place.offset, tensor.numel() * tensor.element_size())
        return tensor

    def _slot(self, words: Mapping[str, Any]) -> Slot:
        return Slot(self._tensor(words["out"]), self._tensor(words["lse"]))

    def _inputs(self, words: Mapping[str, Any]) -> Inputs:
        tensors = {name: self._tensor(place) for name, place in words.items()}
        made = {name.removeprefix("quantized."): one for name, one in tensors.items() if name.startswith("quantized.")}
        return Inputs(tensors["q"], tensors["k"], tensors["v"], Quantized(**made) if made else None)


def _wait_for(control: memoryview, word: int, number: int) -> None:
    """Until a word of the control page has this number."""
    for _ in range(LOOKS):
        if control[word] == number:
            return
    asleep_from = time.monotonic() + YIELDING_S
    while control[word] != number:
        if time.monotonic() < asleep_from:
            os.sched_yield()
        else:
            time.sleep(ASLEEP_S)


def _text_or_none(reason: Any) -> str | None:
    return str(reason)[:TEXT_CHARACTERS] if reason else None


def failure(error: BaseException) -> dict[str, str]:
    """What was raised, as the judge will raise it again."""
    if isinstance(error, (ContractError, HazardError, UnsupportedError)):
        kind = {ContractError: "contract", HazardError: "hazard"}.get(type(error), "unsupported")
        text = str(error)
    elif isinstance(error, NoTerminalError):
        kind, text = "exception", str(error)
    else:
        kind = "oom" if is_out_of_memory(error) else "exception"
        text = raised(error, NO_TERMINAL if is_debugger_quitting(error) else "")
    return {"error": kind, "reason": text[:TEXT_CHARACTERS]}


if __name__ == "__main__":
    main()
