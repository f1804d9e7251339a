"""A published package's attention as a backend of attnbench: what it takes, what its documentation refuses, its call.

What a package says that it does not take is `unsupported` with the reason: a documented limit is no fault. Everything
else is judged.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.backend import Base, Call, Inputs, Outputs, Quantized
from attnbench.case import Case

# attend(q, k, v, causal, softmax_scale): q (batch, seqlen_q, heads, head_dim), or (batch, heads, seqlen_q, head_dim)
# where `heads_first`; the output likewise. Returns out, or (out, lse).
Attend = Callable[[Any, Any, Any, bool, float], Any]


@dataclass(frozen=True, kw_only=True)
class PublishedKernel(Base):
    """package: the distribution, for the version. heads_first: its tensors are (batch, heads, seqlen, head_dim).

    masks: "full", "causal" or both. alignment: of causal, "bottom_right", "top_left", or "squares" where it is meant
    for seqlen_q = seqlen_k only. equal_lengths: seqlen_q = seqlen_k only. grouped: fewer heads of k and v than of q.
    head_dims: those that it takes; empty: any; v is as wide as q. more_keys: no fewer keys than queries. one_query:
    seqlen_q = 1 only. own_scale: its softmax scale is head_dim**-0.5, and nothing else can be asked for. lengths:
    (smallest, multiple of). attend_8bit(quantized, causal, softmax_scale): its call for 8-bit dtypes, of what the
    reference quantizer made.
    """

    name: str
    package: str
    attend: Attend
    heads_first: bool = False
    dtypes: tuple[str, ...] = ("fp16", "bf16")
    masks: tuple[str, ...] = ("full", "causal")
    alignment: str = "bottom_right"
    equal_lengths: bool = False
    grouped: bool = True
    head_dims: tuple[int, ...] = ()
    own_scale: bool = False
    lengths: tuple[int, int] = (1, 1)
    more_keys: bool = False
    one_query: bool = False
    scores_int8: bool = False
    attend_8bit: Callable[[Quantized, bool, float], Any] | None = None

    def version(self) -> str:
        from attnbench.machine.facts import package_version

        return f"{self.package} {package_version(self.package)}"

    def unsupported(self, case: Case) -> str | None:
        """The first of its documented limits that the case goes beyond."""
        mask = "causal" if case.causal else "full"
        smallest, multiple = self.lengths
        limits = (
            (case.dtype not in self.dtypes, f"takes {' and '.join(self.dtypes)} only"),
            (mask not in self.masks, f"{' and '.join(self.masks)} attention only"),
            (case.head_dim_v != case.head_dim, "v as wide as q only"),
            (bool(self.head_dims) and case.head_dim not in self.head_dims, f"head_dim {listed(self.head_dims)} only"),
            (not self.grouped and case.num_heads_kv != case.num_heads, "as many heads of k and v as of q only"),
            (self.one_query and case.seqlen_q != 1, "one query only"),
            (self.more_keys and case.seqlen_k < case.seqlen_q, "at least as many keys as queries"),
            (self.equal_lengths and case.seqlen_q != case.seqlen_k, "seqlen_q = seqlen_k only"),
            (
                case.causal and self.alignment == "top_left" and case.seqlen_q != case.seqlen_k,
                "its causal mask is aligned top left, which differs where seqlen_q != seqlen_k",
            ),
            (
                case.causal and self.alignment == "squares" and case.seqlen_q != case.seqlen_k,
                "causal attention where seqlen_q = seqlen_k only",
            ),
            (self.own_scale and case.scale != case.head_dim**-0.5, "softmax scale head_dim**-0.5 only"),
            (
                min(case.seqlen_q, case.seqlen_k) < smallest
                or bool(case.seqlen_q % multiple or case.seqlen_k % multiple),
                f"lengths from {smallest} that are multiples of {multiple} only",
            ),
        )
        return next((reason for beyond, reason in limits if beyond), None)

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        q, k, v = inputs.q, inputs.k, inputs.v
        quantized, attend_8bit = inputs.quantized, self.attend_8bit
        if self.heads_first:
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))

        def call() -> Outputs:
            if quantized is not None and attend_8bit is not None:
                found = attend_8bit(quantized, case.causal, case.scale)
            else:
                found = self.attend(q, k, v, case.causal, case.scale)
            out, lse = found if isinstance(found, tuple) else (found, None)
            return Outputs(out.transpose(1, 2) if self.heads_first else out, lse)

        return call


def listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)


def import_below(package: str, module: str) -> Any:
    """A module of a package whose `__init__` files, which import everything else there, are not run: parents that have
    only a path stand in for them."""
    import importlib

    parts = module.split(".")
    root = next(Path(place) / parts[0] for place in sys.path if (Path(place) / parts[0]).is_dir())
    assert parts[0] == package
    for depth in range(1, len(parts)):
        name = ".".join(parts[:depth])
        if name not in sys.modules:
            parent = types.ModuleType(name)
            parent.__path__ = [str(root.joinpath(*parts[1:depth]))]
            sys.modules[name] = parent
    return importlib.import_module(module)


def stand_in(name: str, **attributes: Any) -> None:
    """A module that a package imports and that its kernels do not need here."""
    made = types.ModuleType(name)
    vars(made).update(attributes)
    sys.modules.setdefault(name, made)


def paged(x: Any, page_size: int) -> tuple[Any, Any]:
    """k or v (batch, seqlen, heads, head_dim) as pages (pages, page_size, heads, head_dim), zeros past the end, and the
    table of pages (batch, pages of a sequence) int32: pages in order."""
    import torch

    batch, seqlen, heads, head_dim = x.shape
    pages = -(-seqlen // page_size)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, pages * page_size - seqlen))
    table = torch.arange(batch * pages, dtype=torch.int32, device=x.device).view(batch, pages)
    return padded.reshape(batch * pages, page_size, heads, head_dim), table


def packed(x: Any) -> tuple[Any, Any, Any]:
    """x (batch, seqlen, heads, head_dim) as tokens (batch * seqlen, heads, head_dim), the first token of every sequence
    and the lengths, int32."""
    import torch

    batch, seqlen, heads, head_dim = x.shape
    starts = torch.arange(batch, dtype=torch.int32, device=x.device) * seqlen
    lengths = torch.full((batch,), seqlen, dtype=torch.int32, device=x.device)
    return x.reshape(batch * seqlen, heads, head_dim), starts, lengths
