"""A backend whose kernels run in an interpreter: judged like any other, counted, and never timed."""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from attnbench.backend import Base, Call, HazardError, Inputs, Outputs, UnsupportedError
from attnbench.case import Case, forward_flops

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Ran:
    """What a language's kernels did in one call.

    kernels: their names, a launch each. undefined: source lines of loads whose masked lanes hold what nobody gave
    them. reads: bytes loaded from the storage that begins at an address. stand_ins: what was asked of a GPU that is not
    there. config: which of how many `configs` an autotuner took. counted: whether bytes and operations were counted.
    settings: of the language, for the record.
    """

    kernels: tuple[str, ...] = ()
    undefined: frozenset[str] = frozenset()
    read_bytes: int = 0
    written_bytes: int = 0
    dot_flops: int = 0
    exponentials: int = 0
    reads: Mapping[int, int] = field(default_factory=dict)
    stand_ins: tuple[str, ...] = ()
    config: str = ""
    configs: int = 1
    notes: tuple[str, ...] = ()
    counted: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """How the launches of a call run.

    poisoned: masked lanes of loads without `other` hold NaN, not 0; or do so at these source lines. order: seed of the
    programs' order, None: as they are numbered. config: which configuration an autotuner takes. one_by_one: programs
    never share an operation.
    """

    poisoned: frozenset[str] | bool = False
    order: int | None = None
    config: int = 0
    one_by_one: bool = False


class Language(Protocol):
    """An interpreter of one language. module: what kernels written in it import."""

    name: str
    module: str

    def version(self) -> str:
        """Of the language and of its interpreter, as it is installed."""
        ...

    def unavailable(self) -> str | None:
        """Why it cannot run here."""
        ...

    def inside(self) -> AbstractContextManager[None]:
        """Wrappers of kernels run inside of this."""
        ...

    def adapted(self, backend: Base) -> Base:
        """A backend as the language's kernels are called: itself, unless it takes other arrays than tensors."""
        ...

    def called(self, call: Call, conditions: Conditions) -> tuple[Outputs, Ran]:
        """One call, and what its kernels did."""
        ...


# How many FLOP a case may have, so that every configuration of an autotuner is tried on it.
SMALL_FLOPS = 5e7
# Further apart than this many roundings of the output's type, two configurations do not compute the same.
SAME_ROUNDINGS = 8.0
# Of a backend's traits, those that the interpreter decides; the others are the kernel's.
OWN_TRAITS = frozenset(("name", "devices", "by_name_only", "emulated", "interpreted", "language"))


@dataclass
class Interpreted(Base):
    """inner: what the kernel's wrapper is as a backend. The first call of a case is made twice: zeros in masked lanes
    and programs in order, then NaN in masked lanes and another order. Repeats take further orders."""

    inner: Base
    languages: Sequence[Language]
    calls: Counter[str] = field(default_factory=Counter)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried_configs: set[str] = field(default_factory=set)

    devices = ("cpu",)
    # Where a suite or the command line names it: the interpreter is asked for by itself.
    by_name_only = ("cpu",)
    interpreted = True

    def __post_init__(self) -> None:
        for language in self.languages:
            self.inner = language.adapted(self.inner)
        for name in Base.__annotations__.keys() - OWN_TRAITS:
            setattr(self, name, getattr(self.inner, name))

    @property
    def name(self) -> str:  # type: ignore[override]  # read only, as everybody uses it
        return self.inner.name

    def version(self) -> str:
        with self.inside():
            return f"{self.inner.version()} (interpreted)"

    def unavailable(self) -> str | None:
        """The inner backend's own reason counts only where it is none of the GPU that stands in."""
        reasons = [language.unavailable() for language in self.languages]
        if reasons and all(reasons):
            return "; ".join(str(reason) for reason in reasons)
        for language, reason in zip(self.languages, reasons):
            if reason and language.module in sys.modules:  # what the plugin imported is what it needs
                return reason
        if self.inner.language is not None:
            own = next((item for item in self.languages if item.name == self.inner.language), None)
            return f"{self.inner.language} is not interpreted here" if own is None else own.unavailable()
        with self.inside():
            return self.inner.unavailable()

    def unsupported(self, case: Case) -> str | None:
        with self.inside():
            return self.inner.unsupported(case)

    def interpretation_facts(self, case: Case) -> Mapping[str, Any] | None:
        return self.facts.get(case.key, {}).get("interpreted") or {
            "language": ", ".join(language.name for language in self.languages),
            "version": ", ".join(language.version() for language in self.languages),
            "seed": seed_of(case),
        }

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        return self.facts.get(case.key)

    def warnings(self, case: Case) -> tuple[str, ...]:
        interpreted = self.facts.get(case.key, {}).get("interpreted", {})
        lines = list(interpreted.get("notes", ()))
        if interpreted.get("defined") is False:
            where = ", ".join(interpreted["undefined"])
            lines.insert(0, f"right only where masked lanes of a load without `other` hold 0, not promised: {where}")
        return tuple(lines)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for language in self.languages:
                stack.enter_context(language.inside())
            yield

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        with self.inside():
            inner = self.inner.prepare(case, inputs)

        def call() -> Outputs:
            number = self.calls[case.key]
            self.calls[case.key] += 1
            order = None if number == 0 else seed_of(case) + number
            outputs, language, ran = self.once(inner, Conditions(order=order))
            if number == 0:
                outputs = copied(outputs)
                self.examine(case, inputs, inner, outputs, language, ran)
            return outputs

        return call

    def once(self, inner: Call, conditions: Conditions) -> tuple[Outputs, Language, Ran]:
        """A call, the language whose kernels it launched, and what they did.

        Raises UnsupportedError where it launched none: then something else was called than what is to be judged.
        """
        languages = [language for language in self.languages if language.unavailable() is None]
        rans: list[tuple[Language, Ran]] = []
        call = inner
        for language in languages:
            call = _through(language, call, conditions, rans)
        outputs = call()
        for language, ran in rans:
            if ran.kernels:
                return outputs, language, ran
        names = " nor ".join(language.name.capitalize() for language in languages)
        raise UnsupportedError(f"it launched no kernel of {names}: nothing was interpreted")

    def examine(self, case: Case, inputs: Inputs, inner: Call, outputs: Outputs, language: Language, ran: Ran) -> None:
        """The second pass of a case, and what is stored of both. Raises HazardError."""
        seed = seed_of(case)
        interpreted: dict[str, Any] = {
            "language": language.name, "version": language.version(), "mended": True, "poison": True, "seed": seed,
            "config": ran.config, "stand_ins": list(ran.stand_ins), "defined": True, **ran.settings,
        }  # fmt: skip
        self.facts[case.key] = {"name": ran.kernels[-1], "interpreted": interpreted}
        if ran.counted:
            self.facts[case.key]["counted"] = counted(case, inputs, ran)
        notes = list(ran.notes)
        guilty, ordered = self.second_pass(inner, outputs, seed)
        if guilty:
            interpreted |= {"defined": False, "undefined": guilty}
        if not ordered:
            notes.append("another order of programs gives other bits")
        kernel = ran.kernels[-1]
        if ran.configs > 1 and forward_flops(case) <= SMALL_FLOPS and kernel not in self.tried_configs:
            self.tried_configs.add(kernel)
            tried = {ran.config}
            for config in range(1, ran.configs):
                other, _, told = self.once(inner, Conditions(config=config))
                tried.add(told.config)
                if not alike(outputs, other):
                    raise HazardError(f"{kernel}: configuration {told.config} gives another result than {ran.config}")
            interpreted["configs"] = len(tried)
        if notes:
            interpreted["notes"] = notes

    def second_pass(self, inner: Call, outputs: Outputs, seed: int) -> tuple[list[str], bool]:
        """(the loads whose masked lanes decide the result, whether the order of programs does not)."""
        second, _, ran = self.once(inner, Conditions(poisoned=True, order=seed))
        if same_bits(outputs, second):
            return [], True

        def changes(conditions: Conditions) -> bool:
            return not same_bits(outputs, self.once(inner, conditions)[0])

        guilty = [place for place in sorted(ran.undefined) if changes(Conditions(poisoned=frozenset({place})))]
        if not guilty and ran.undefined and changes(Conditions(poisoned=True)):
            guilty = sorted(ran.undefined)  # several together
        return guilty, not changes(Conditions(order=seed))


def _through(language: Language, call: Call, conditions: Conditions, rans: list[tuple[Language, Ran]]) -> Call:
    def run() -> Outputs:
        outputs, ran = language.called(call, conditions)
        rans.append((language, ran))
        return outputs

    return run


def seed_of(case: Case) -> int:
    """The same in every run."""
    return zlib.crc32(case.key.encode())


def counted(case: Case, inputs: Inputs, ran: Ran) -> dict[str, Any]:
    """By the names of `kernel.counted`: bytes of unmasked lanes, no cache modelled. reread: how often each byte of k
    and v was loaded; None where the wrapper copied them first."""
    source = inputs.quantized or inputs
    reads = [ran.reads.get(tensor.untyped_storage().data_ptr(), 0) for tensor in (source.k, source.v)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in (source.k, source.v))
    return {
        "global_read_bytes": ran.read_bytes,
        "global_write_bytes": ran.written_bytes,
        "reread": round(sum(reads) / size, 4) if all(reads) and size else None,
        "tensor_flops": ran.dot_flops,
        "useful_flops": forward_flops(case),
        "exponentials": ran.exponentials,
        "barrier_waits": 0,
    }


def tensors_of(outputs: Outputs) -> list[Tensor]:
    import torch

    return [x for x in (outputs.out, outputs.lse, outputs.dq, outputs.dk, outputs.dv) if isinstance(x, torch.Tensor)]


def copied(outputs: Outputs) -> Outputs:
    """What the next call may not change, where a wrapper keeps its buffers."""
    import torch

    names = ("out", "lse", "dq", "dk", "dv")
    values = {name: getattr(outputs, name) for name in names}
    return Outputs(**{name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in values.items()})


def same_bits(one: Outputs, other: Outputs) -> bool:
    """NaN of any payload counts as the same."""
    pairs = list(zip(tensors_of(one), tensors_of(other)))
    return all(a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)


def alike(one: Outputs, other: Outputs) -> bool:
    """The same up to roundings of the output's type."""
    import torch

    a, b = one.out.double(), other.out.double()
    if a.shape != b.shape or not bool((a.isfinite() == b.isfinite()).all()):
        return False
    finite = a.isfinite()
    scale = a[finite].square().mean().sqrt().clamp(min=1e-30)
    apart = (a - b)[finite].square().mean().sqrt()
    return bool(apart <= SAME_ROUNDINGS * torch.finfo(one.out.dtype).eps * scale)
