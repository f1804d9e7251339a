"""What a backend is, and what flows through it. Imports no torch: the reading half lists backends too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True, slots=True)
class Outputs:
    """out (batch, seqlen_q, num_heads, head_dim_v) in the case's output dtype; lse (batch, num_heads, seqlen_q) fp32,
    None where the backend gives none; dq, dk, dv for backward."""

    out: Tensor
    lse: Tensor | None = None
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None


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
    """One way to compute attention. Only these members are required; `trait` reads the optional ones.

    Optional: devices (default cpu and cuda), accumulator (fp32), own_quantizer (False: starts from the quantized
    tensors), partials_16bit (False), by_name_only (none: devices on which it runs only where a suite or --backend names
    it), extra_bytes(case) (0: memory beyond inputs and outputs), kernel_facts(case) (None: what goes into the record's
    `kernel`), prep_call(case, inputs) (None: what of `prepare` has to be done again for every call in use, as a
    PrepCall; timed beside the call).
    """

    name: str
    deterministic: bool  # bitwise repeatable

    def version(self) -> str: ...

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, with the way out; None when it can. Cheap: no torch, no CUDA context."""

    def unsupported(self, case: Case) -> str | None:
        """Why it cannot answer this case; None when it can."""

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        """Does everything untimed and returns the call that is timed. One `prepare` per set of inputs."""


_TRAITS: Mapping[str, Any] = {
    "deterministic": True,
    "devices": ("cpu", "cuda"),
    "accumulator": "fp32",
    "own_quantizer": False,
    "partials_16bit": False,
    "by_name_only": (),
}


def trait(backend: Backend, name: str) -> Any:
    """An optional attribute of a backend, or its default."""
    return getattr(backend, name, _TRAITS[name])


def extra_bytes(backend: Backend, case: Case) -> int:
    """Device memory that a call needs beyond its inputs and outputs; 0 where the backend does not say."""
    method = getattr(backend, "extra_bytes", None)
    return int(method(case)) if method else 0


def kernel_facts(backend: Backend, case: Case) -> Mapping[str, Any] | None:
    """What is known of the machine code behind this case (registers, spills, instructions), for the record."""
    method = getattr(backend, "kernel_facts", None)
    return method(case) if method else None


def prep_call(backend: Backend, case: Case, inputs: Inputs) -> PrepCall | None:
    """The backend's own preparation of each call; None where it has none, or where it is inside its call."""
    method = getattr(backend, "prep_call", None)
    return method(case, inputs) if method else None


class ContractError(Exception):
    """A backend that broke its contract: wrong type, shape, dtype or device, or it wrote its inputs."""
