"""What a backend is, and what flows through it. Imports no torch: the reading half lists backends too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attnbench.case import Case, alignments_differ

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.machine.libraries import Library
    from attnbench.settings import Emulation


@dataclass(frozen=True, slots=True)
class Quantized:
    """What the reference quantizer made of q, k, v: e4m3 or e5m2 tensors in the originals' layout, and fp32 descales.

    Descales by scaling: tensor (1,), head (batch, heads), token (batch, seqlen, heads),
    block (batch, ceil(seqlen / block_size), heads); none: ones of shape (1,). With Hadamard, q and k are rotated.
    Real value = stored value x descale.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_descale: Tensor
    k_descale: Tensor
    v_descale: Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """q (batch, seqlen_q, num_heads, head_dim), k (batch, seqlen_k, num_heads_kv, head_dim), v (..., head_dim_v).

    For 8-bit dtypes these are the bf16 originals, and `quantized` holds what the reference quantizer made of them.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    quantized: Quantized | None = None


# Where an output is a small part of a larger piece of memory, only it is copied.
MOST_COPIED = 4


@dataclass(frozen=True, slots=True)
class Outputs:
    """out (batch, seqlen_q, num_heads, head_dim_v) in the case's output dtype; lse (batch, num_heads, seqlen_q) fp32,
    None where the backend gives none; dq, dk, dv for backward."""

    out: Tensor
    lse: Tensor | None = None
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None


def as_returned(outputs: Outputs) -> Outputs:
    """A copy of what a call returned, made before any other thread of Python can run: memory that is still being
    written shows as it is. On CUDA the copy is on the current stream: so does what another stream writes."""
    lse = None if outputs.lse is None else _copied(outputs.lse)
    return replace(outputs, out=_copied(outputs.out), lse=lse)


def _copied(x: Tensor) -> Tensor:
    import ctypes

    import torch

    memory = x.untyped_storage()
    if x.is_cuda or memory.nbytes() > MOST_COPIED * x.numel() * x.element_size() or not memory.nbytes():
        return x.clone()
    # NOTE: torch and ctypes.memmove let other threads run while they copy; a bytearray made of a buffer does not.
    held = bytearray((ctypes.c_char * memory.nbytes()).from_address(memory.data_ptr()))
    copied = torch.frombuffer(held, dtype=torch.uint8).view(x.dtype)
    return copied.as_strided(x.shape, x.stride(), x.storage_offset())


Call = Callable[[], Outputs]


@dataclass(frozen=True, slots=True)
class PrepCall:
    """Preparation that use repeats for every call (quantization), as a call of its own to be timed.

    about: whose it is.
    """

    about: str
    call: Callable[[], object]


@runtime_checkable
class Backend(Protocol):
    """One way to compute attention, as far as it has to be said; `Base` has the defaults of everything else."""

    name: str
    deterministic: bool | frozenset[str]

    def version(self) -> str: ...

    def unavailable(self) -> str | None: ...

    def unsupported(self, case: Case) -> str | None: ...

    def prepare(self, case: Case, inputs: Inputs) -> Call: ...


class Base:
    """What a backend is unless it says otherwise; a subclass gives `name` and `prepare`.

    deterministic: bitwise repeatable, or the names of the tensors that are not ("dq"). devices: where it runs.
    accumulator: how 8-bit products are summed (`reference.fp8.ACCUMULATORS`); E1 is held against that one's emulation.
    "tf32": products of fp32 tensors take 10 fraction bits of each, which is then their budget.
    own_quantizer: it starts from the originals of an 8-bit case, not from the quantized tensors. partials_16bit: it
    keeps partial results in 16 bits. scores_int8: q and k of a 16-bit case become 8-bit integers, whose error is its
    budget (`reference.int8`). scores_16bit: a 16-bit case's scores are stored in its type before softmax, which is then
    their budget. lse_informational: its lse is told, not judged. by_name_only: devices on which it runs only where a
    suite or --backend names it.
    emulated: its kernels run in an emulation of their hardware, so that it is judged like any other and never timed.
    keeps_memory: on the CPU it keeps memory of its own from one call to the next, so that its peak is not told.
    interpreted: they run in their language's interpreter, likewise. language: in which its kernels are written, where
    that has an interpreter ("triton"). stateful: with `calls: n`, `prepare` returns a callable that takes a step's
    number and its q, k, v; step 0 is the prefill, whose inputs `prepare` was given.

    copies_inputs: `prepare` transposes, widens, quantizes or packs the inputs (a set of dtypes: in cases of these); it
    is then called anew whenever their numbers have changed, as they do between timed calls.

    batch_invariant: a sequence's bits are the same alone, in a batch and elsewhere in it, which a probe judges; None
    (not known): it tells; False: it does not ask.

    What no check reads yet has its neutral value here, so that a backend may declare it: declared, exact_settings,
    absent_relations, unbiased, rank_rows, sent_bytes. approximate: it is not asked for the patterns of small mistakes.
    """

    name: str
    deterministic: bool | frozenset[str] = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    accumulator: str = "fp32"
    own_quantizer: bool = False
    partials_16bit: bool = False
    scores_int8: bool = False
    by_name_only: tuple[str, ...] = ()
    emulated: bool = False
    keeps_memory: bool = False
    interpreted: bool = False
    language: str | None = None

    copies_inputs: bool | frozenset[str] = False
    scores_16bit: bool = False
    lse_informational: bool = False
    batch_invariant: bool | None = None
    approximate: bool = False
    stateful: bool = False
    declared: Callable[..., Any] | None = None
    exact_settings: tuple[str, ...] = ()
    absent_relations: frozenset[str] = frozenset()
    unbiased: bool = False
    rank_rows: Callable[..., Any] | None = None
    sent_bytes: Callable[..., Any] | None = None

    def version(self) -> str:
        """Of what decides its results, for the record; that of torch, unless a subclass knows better."""
        from attnbench.machine.facts import package_version

        return f"torch {package_version('torch')}"

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, with the way out; None when it can. Cheap: no torch, no CUDA context."""
        from attnbench.machine.facts import lacks_torch

        return lacks_torch()

    def under(self, emulation: Emulation) -> Base:
        """Itself as a run wants its launches delivered and checked, where its kernels are emulated."""
        return self

    def emulation_facts(self, case: Case) -> Mapping[str, Any] | None:
        """How a case's launches are delivered and checked, for the record (`kernel.emulated`); None where nothing is
        emulated."""
        return None

    def interpretation_facts(self, case: Case) -> Mapping[str, Any] | None:
        """How a case's kernels are interpreted, for the record (`kernel.interpreted`); None where none is."""
        return None

    def warnings(self, case: Case) -> tuple[str, ...]:
        """What a reader of the case's record must know, once it was checked."""
        return ()

    def build(self) -> None:
        """Compiles what it needs, unless that is there; a phase of its own, which no time-out counts."""

    def unsupported(self, case: Case) -> str | None:
        """Why it cannot answer this case; None when it can."""
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        """Does everything untimed and returns the call that is timed. One `prepare` per set of inputs."""
        raise NotImplementedError

    def extra_bytes(self, case: Case) -> int:
        """Memory in bytes that a call needs beyond its inputs and outputs."""
        return 0

    def input_set(self, inputs: Inputs) -> Inputs | None:
        """A copy of the inputs where its calls see what is done to them later; None where they see that anyway."""
        return None

    def own_timer(self, case: Case, input_sets: int, seed: int) -> Any:
        """A `timing.sampling.Timer` for calls that none of the device's can time; None where one of these can. seed:
        secret."""
        return None

    def kernel_facts(self, case: Case) -> Mapping[str, Any] | None:
        """What is known of the machine code behind this case (registers, spills, instructions), for the record."""
        return None

    def prep_call(self, case: Case, inputs: Inputs) -> PrepCall | None:
        """What of `prepare` has to be done again for every call in use; timed beside the call. None where nothing is,
        or where it is inside the call."""
        return None


class LibraryBackend(Base):
    """A backend of a CPU library that others wrote, run where it is named; `library`: which, and the tested version."""

    library: Library
    devices = ("cpu",)
    by_name_only = ("cpu",)

    def version(self) -> str:
        return self.library.version()

    def unavailable(self) -> str | None:
        return super().unavailable() or self.library.unavailable()

    def warnings(self, case: Case) -> tuple[str, ...]:
        return self.library.untested()


def beyond(case: Case, dtypes: Collection[str], takes: Collection[str] = ()) -> str | None:
    """Why a backend cannot answer a case that asks for more than dense attention in one of `dtypes`, its causal mask
    bottom-right aligned; None where it can. takes: the case fields beyond that which it does answer."""
    if case.dtype not in dtypes:
        *others, last = dtypes
        listed = f"{', '.join(others)} and {last}" if others else last
        return f"it takes {listed}, not {case.dtype}"
    if case.mask_alignment == "top_left" and "mask_alignment" not in takes and alignments_differ(case):
        return "its causal mask is bottom-right aligned, not top left, which differs where seqlen_q != seqlen_k"
    if case.kv_dtype is not None and "kv_dtype" not in takes:
        return f"it takes k and v in the dtype of q, not {case.kv_dtype} beside {case.dtype}"
    return None


class _Completed(Base):
    """A backend that is no `Base`, with the defaults of what it does not say."""

    def __init__(self, backend: Backend):
        for name in (*vars(Base), "name"):
            if not name.startswith("_") and hasattr(backend, name):
                setattr(self, name, getattr(backend, name))


def completed(backend: Backend) -> Base:
    """The backend with every optional member."""
    return backend if isinstance(backend, Base) else _Completed(backend)


def copies(backend: Base, case: Case) -> bool:
    """Whether `prepare` copies the inputs of this case."""
    declared = backend.copies_inputs
    return declared if isinstance(declared, bool) else case.dtype in declared


def never_timed(backend: Base) -> bool:
    """Whether what runs is no hardware's code, so that no time of it means anything."""
    return backend.emulated or backend.interpreted


class HazardError(Exception):
    """A race, a deadlock or a missing fence that an emulation found, an access outside of every tensor that an
    interpreter did: hardware may forgive it today."""


class UnsupportedError(Exception):
    """What shows only while a kernel runs: it needs what is not there. Its case is `unsupported`, with this reason."""


class ContractError(Exception):
    """A backend that broke its contract: wrong type, shape, dtype or device, or it wrote its inputs."""


class RemoteError(Exception):
    """What a backend raised in a process of its own, or what became of that process; kind: of the record."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
