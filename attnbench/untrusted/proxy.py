"""A plugin's backend as the judge's process has it: whatever is asked of it is asked of the candidate process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from attnbench.backend import Base, Call, ContractError, Inputs, Outputs, PrepCall, Quantized, RemoteError
from attnbench.case import Case
from attnbench.untrusted.handover import HandOverTimer, place_in, slot_tensors
from attnbench.untrusted.memory import Mirror, Place
from attnbench.untrusted.process import Candidate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Traits that are this process's to say, or that no message can carry.
NOT_TAKEN = frozenset(("name", "emulated", "interpreted", "language", "declared", "rank_rows", "sent_bytes"))
# Of texts that it may add to a record.
MOST_WARNINGS = 20


class Proxy(Base):
    """running: the candidate process, a fresh one where the last has ended. spare: one that runs nothing but ours."""

    keeps_memory = True  # a peak is that of a process, and this one does not run its kernels

    def __init__(
        self, traits: Mapping[str, Any], running: Callable[[], Candidate], spare: Callable[[], Candidate]
    ):  # fmt: skip
        self.name: str = traits["name"]
        self._version, self._running, self._spare = traits["version"], running, spare
        for name in traits.keys() & (Base.__annotations__.keys() - NOT_TAKEN):
            setattr(self, name, traits[name])

    def version(self) -> str:
        return str(self._version)

    def unavailable(self) -> str | None:
        return self._reason("unavailable")

    def unsupported(self, case: Case) -> str | None:
        return self._reason("unsupported", case=case.to_dict())

    def build(self) -> None:
        self._ask("build")

    def extra_bytes(self, case: Case) -> int:
        found = self._ask("extra_bytes", case=case.to_dict())
        if not isinstance(found, int) or found < 0:
            raise ContractError(f"extra_bytes() returned {found!r:.100}; return a whole number of bytes")
        return found

    def warnings(self, case: Case) -> tuple[str, ...]:
        found = self._ask("warnings", case=case.to_dict())
        return tuple(str(text) for text in found[:MOST_WARNINGS]) if isinstance(found, list) else ()

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        found = self._ask("kernel_facts", case=case.to_dict())
        return found if isinstance(found, dict) else None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return ProxyCall(self._running(), self.name, case, inputs)

    def prep_call(self, case: Case, inputs: Inputs) -> PrepCall | None:
        candidate = self._running()
        given = Given(candidate, inputs)
        found = given.ask("prep_call", backend=self.name, case=case.to_dict(), inputs=given.words())
        if not isinstance(found, dict):
            return None
        return PrepCall(str(found["about"]), lambda: given.ask("call", held=found["held"], poisoned=False))

    def input_set(self, inputs: Inputs) -> Inputs:
        arena = self._running().arena
        return from_named({name: arena.copy(tensor) for name, tensor in named(inputs).items()})

    def own_timer(self, case: Case, input_sets: int, seed: int) -> HandOverTimer:
        return HandOverTimer(self._running(), self._spare, case, input_sets, seed)

    def _reason(self, op: str, **values: Any) -> str | None:
        found = self._ask(op, **values)
        return None if found is None else str(found)

    def _ask(self, op: str, **values: Any) -> Any:
        return self._running().ask(op, backend=self.name, **values)


def named(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors by the names that a reader of a record knows."""
    made = inputs.quantized
    held = {} if made is None else {f"quantized.{one.name}": getattr(made, one.name) for one in fields(made)}
    return {"q": inputs.q, "k": inputs.k, "v": inputs.v, **held}


def from_named(tensors: Mapping[str, Tensor]) -> Inputs:
    made = {name.removeprefix("quantized."): one for name, one in tensors.items() if name.startswith("quantized.")}
    return Inputs(tensors["q"], tensors["k"], tensors["v"], Quantized(**made) if made else None)


class Given:
    """Inputs as a candidate sees them: where they lie already, or copied to where it can.

    A copy is made anew ahead of each message, since the judge may have changed the numbers, and held against the
    judge's own after it.
    """

    def __init__(self, candidate: Candidate, inputs: Inputs):
        self.candidate, self.inputs = candidate, inputs
        self._mirror = Mirror(candidate.arena)
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}  # by name: the judge's, the candidate's
        self.places: dict[str, Place] = {}
        for name, tensor in named(inputs).items():
            place = candidate.arena.place(tensor)
            if place is None:
                mirrored = self._mirror.add(tensor)
                self._copies[name] = tensor, mirrored
                place = place_in(candidate, mirrored)
            self.places[name] = place

    def words(self) -> dict[str, Any]:
        return {name: place.words() for name, place in self.places.items()}

    def ask(self, op: str, further: tuple[Place, ...] = (), **values: Any) -> Any:
        self._mirror.copy()
        said = self.candidate.ask(op, (*self.places.values(), *further), **values)
        changed = [name for name, pair in self._copies.items() if not same_bits(*pair)]
        if changed:
            raise ContractError(f"it wrote its inputs: {' and '.join(changed)} changed during the call")
        return said


def same_bits(one: Tensor, other: Tensor) -> bool:
    import torch

    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[one.element_size()]
    return torch.equal(one.view(width), other.view(width))


class ProxyCall:
    """A prepared call in a candidate process; `held` is its number there."""

    def __init__(self, candidate: Candidate, backend: str, case: Case, inputs: Inputs):
        self.candidate, self.dtype, self._case = candidate, inputs.q.dtype, case
        self._given = Given(candidate, inputs)
        words, given = case.to_dict(), self._given
        self.held = given.ask("prepare", backend=backend, case=words, inputs=given.words(), poisoned=poisoned())
        if not isinstance(self.held, int):
            raise RemoteError("contract", f"a prepared call has no number but {self.held!r:.60}")
        self._slots: dict[int, dict[str, Tensor]] = {}  # by seqlen_q
        weakref.finalize(self, candidate.dropped.append, self.held)

    def __call__(self, *step: Any) -> Outputs:
        """step: nothing, or of a sequence its number and its q, k, v."""
        inputs = self._given.inputs
        values: dict[str, Any] = {"held": self.held, "poisoned": poisoned()}
        given = self._given
        if step:
            number, *tensors = step
            inputs = Inputs(*tensors)
            given = Given(self.candidate, inputs)
            values |= {"step": number, "given": given.words()}
        slot = self._slot(replace(self._case, seqlen_q=inputs.q.shape[1]), inputs.q.dtype)
        places = {name: place_in(self.candidate, tensor) for name, tensor in slot.items()}
        words = {name: place.words() for name, place in places.items()}
        said = given.ask("call", tuple(places.values()), slot=words, **values)
        has_lse = isinstance(said, dict) and said.get("lse") is True
        return Outputs(slot["out"].clone(), slot["lse"].clone() if has_lse else None)

    def _slot(self, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
        if case.seqlen_q not in self._slots:
            self._slots[case.seqlen_q] = slot_tensors(self.candidate, case, dtype)
        return self._slots[case.seqlen_q]


def poisoned() -> bool:
    """Whether this process is in the mode of `contract.poisoned_memory`."""
    import torch

    return torch.get_deterministic_debug_mode() != 0
