"""Small problems whose answers tell what a backend does where attention libraries differ.

Each question is posed to the backend's own `prepare`; nothing is judged. An answer is a few words, or why there is
none: what the backend does not take, or what it raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from attnbench.backend import Base, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEAD_DIM = 64
# The first that a backend takes is what the questions are posed in.
ASKED_DTYPES = ("bf16", "fp16", "fp32")
TOLERANCE = 0.02
# Between two keys: its sigmoid tells scales apart.
LOGIT = 2.0


class NotTakenError(Exception):
    """The backend does not take the problem; the message is its reason."""


class Asked(NamedTuple):
    """A backend and the dtype that its questions are posed in."""

    backend: Base
    dtype: str

    def call(self, q: Tensor, k: Tensor, v: Tensor, **fields: Any) -> Outputs:
        """The backend's answer to fp32 q, k, v in the layout of Inputs, once rounded to its dtype."""
        shape = {"seqlen_q": q.shape[1], "seqlen_k": k.shape[1], "num_heads": q.shape[2], "num_heads_kv": k.shape[2]}
        case = self.case(**shape, **fields)
        if reason := self.backend.unsupported(case):
            raise NotTakenError(reason)
        q, k, v = (x.to(self.torch_dtype).contiguous() for x in (q, k, v))
        return self.backend.prepare(case, Inputs(q, k, v))()

    def case(self, **fields: Any) -> Case:
        plain = {"batch": 1, "num_heads": 2, "head_dim": HEAD_DIM, "dtype": self.dtype, "causal": False}
        return Case.make(**{**plain, **fields})

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.dtype]


def _drawn(*shape: int) -> Tensor:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def _flat(seqlen_q: int, seqlen_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Equal weights, and v that shows in column j how much key j got; two heads."""
    import torch

    v = torch.zeros(1, seqlen_k, 2, HEAD_DIM)
    v[0, torch.arange(seqlen_k), :, torch.arange(seqlen_k)] = 1.0
    return torch.zeros(1, seqlen_q, 2, HEAD_DIM), _drawn(1, seqlen_k, 2, HEAD_DIM), v


def _seen(out: Tensor, row: int, seqlen_k: int) -> list[int]:
    return [key for key in range(seqlen_k) if float(out[0, row, 0, key]) > TOLERANCE]


def causal_alignment(asked: Asked) -> str:
    found, refused = {}, ""
    corners = {"bottom right": 2, "top left": 0}
    for alignment in ("bottom_right", "top_left"):
        try:
            out = asked.call(*_flat(3, 5), causal=True, mask_alignment=alignment).out
        except NotTakenError as reason:
            refused = str(reason)
            continue
        rows = [_seen(out, row, 5) for row in range(3)]
        fits = [name for name, at in corners.items() if rows == [list(range(row + at + 1)) for row in range(3)]]
        found[alignment] = fits[0] if fits else f"neither: rows see keys {', '.join(map(str, rows))}"
    if not found:
        raise NotTakenError(refused)
    return "either, as asked" if list(found.values()) == list(corners) else " and ".join(dict.fromkeys(found.values()))


def row_without_keys(asked: Asked) -> str:
    answer = asked.call(*_flat(5, 3), causal=True)
    row = answer.out[0, 0, 0].float()
    lse = "" if answer.lse is None else f", lse {float(answer.lse[0, 0, 0]):g}"
    if bool(row.isnan().any()):
        return f"NaN{lse}"
    if not bool(row.any()):
        return f"0{lse}"
    seen = _seen(answer.out, 0, 3)
    return f"{'mean of all v' if len(seen) == 3 else f'keys {seen}'}{lse}"


def _hidden_nan(asked: Asked, place: int) -> str:
    q, k, v = _drawn(1, 4, 2, HEAD_DIM), _drawn(1, 4, 2, HEAD_DIM), _drawn(1, 4, 2, HEAD_DIM)
    (k, v)[place][0, 3] = math.nan
    out = asked.call(q, k, v, causal=True).out
    if not bool(out[0, 3].isnan().any()):
        return "is hidden from the row that sees it"
    return (
        "reaches rows that do not see it" if bool(out[0, :3].isnan().any()) else "stays out of rows that do not see it"
    )


def hidden_nan_in_k(asked: Asked) -> str:
    return _hidden_nan(asked, 0)


def hidden_nan_in_v(asked: Asked) -> str:
    return _hidden_nan(asked, 1)


def softmax_scale(asked: Asked) -> str:
    import torch

    q, k, v = _flat(1, 2)
    q[..., 0], k[..., 0], k[:, 0] = 1.0, LOGIT, 0.0
    share = float(asked.call(q, k, v, softmax_scale=0.5).out[0, 0, 0, 1])
    for scale, words in ((0.5, "as given"), (HEAD_DIM**-0.5, "ignored: 1 / sqrt(head_dim)"), (1.0, "ignored: 1")):
        if abs(share - float(torch.sigmoid(torch.tensor(LOGIT * scale)))) < TOLERANCE:
            return words
    return f"neither as given nor a usual one: a weight of {share:.3f}"


def log_sum_exp(asked: Asked) -> str:
    import torch

    q, k, v = _drawn(1, 3, 2, HEAD_DIM), _drawn(1, 50, 2, HEAD_DIM), _drawn(1, 50, 2, HEAD_DIM)
    answer = asked.call(q, k, v)
    if answer.lse is None:
        return "none"
    q, k = (x.to(asked.torch_dtype).double() for x in (q, k))
    exact = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(HEAD_DIM**-0.5).logsumexp(dim=-1)
    for base, words in ((1.0, "natural"), (math.log(2.0), "to base 2")):
        error = float((answer.lse.double() - exact / base).abs().max())
        if error < 1e-4:
            return f"{words} logarithm"
        if error < 0.02:
            return f"{words} logarithm, rounded to 16 bits"
    return "another quantity"


def grouped_heads(asked: Asked) -> str:
    import torch

    v = torch.arange(2.0)[None, None, :, None].expand(1, 3, 2, HEAD_DIM) + 1.0
    out = asked.call(torch.zeros(1, 1, 4, HEAD_DIM), torch.zeros(1, 3, 2, HEAD_DIM), v).out
    heads = [round(float(x)) - 1 for x in out[0, 0, :, 0]]
    for mapping, words in (([0, 0, 1, 1], "h // ratio"), ([0, 1, 0, 1], "h % heads_kv")):
        if heads == mapping:
            return f"head h uses {words}"
    return f"heads use {heads}"


def scores(asked: Asked) -> str:
    """Two logits of 256 and 256.125, which 16 bits do not tell apart, so that the second key gets 0.531 or a half."""
    q, k, v = _flat(1, 2)
    k.zero_()
    q[..., 0], q[..., 1], k[..., 0], k[:, 1, :, 1] = 16.0, 0.25, 16.0, 0.5
    share = float(asked.call(q, k, v, softmax_scale=1.0).out[0, 0, 0, 1])
    if abs(share - 0.53121) < 0.005:
        return "in fp32"
    return "rounded to 16 bits" if abs(share - 0.5) < 0.005 else f"otherwise: a weight of {share:.3f}"


def sums(asked: Asked) -> str:
    """The mean of 4096 equal values, for one query; in fp16 where that is taken, whose sums overflow first."""
    import torch

    half = Asked(asked.backend, "fp16")
    asked = asked if asked.backend.unsupported(half.case(seqlen=64)) else half
    keys = torch.zeros(1, 4096, 2, HEAD_DIM)
    out = float(asked.call(torch.zeros(1, 1, 2, HEAD_DIM), keys, keys + 100.0).out[0, 0, 0, 0])
    again = float(asked.call(torch.zeros(1, 1, 2, HEAD_DIM), keys, keys + 1.375).out[0, 0, 0, 0])
    if abs(out - 100.0) < 0.5 and abs(again - 1.375) < 0.01:
        return "in fp32, or as exact"
    return f"in 16 bits: the mean of 100 is {out:g}, of 1.375 {again:g}"


def same_bits(asked: Asked) -> str:
    import torch

    given = _drawn(1, 65, 2, HEAD_DIM), _drawn(1, 129, 2, HEAD_DIM), _drawn(1, 129, 2, HEAD_DIM)
    first, second = (asked.call(*given).out.clone() for _ in range(2))
    return "yes" if torch.equal(first, second) else "no"


class Question(NamedTuple):
    name: str
    ask: Callable[[Asked], str]


QUESTIONS = (
    Question("causal mask, 3 queries and 5 keys", causal_alignment),
    Question("row that sees no key", row_without_keys),
    Question("NaN in a row of k that causal hides", hidden_nan_in_k),
    Question("NaN in a row of v that causal hides", hidden_nan_in_v),
    Question("scale given as softmax_scale", softmax_scale),
    Question("log-sum-exp", log_sum_exp),
    Question("grouped heads", grouped_heads),
    Question("scores", scores),
    Question("sums over 4096 keys, one query", sums),
    Question("same bits again", same_bits),
)


def asked_in(backend: Base) -> Asked:
    """The backend with the first dtype that it takes a plain case in. Raises NotTakenError."""
    reason = None
    for dtype in ASKED_DTYPES:
        asked = Asked(backend, dtype)
        reason = backend.unsupported(asked.case(seqlen=64))
        if reason is None:
            return asked
    raise NotTakenError(str(reason))


class RefusedError(Exception):
    """A backend that cannot be asked at all; the message says why."""


def answers(backend: Base) -> dict[str, str]:
    """By question. Raises RefusedError, and nothing else for what the backend does."""
    try:
        if reason := backend.unavailable():
            raise RefusedError(f"not here: {reason}")
        backend.build()
        asked = asked_in(backend)
    except RefusedError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise RefusedError(f"not asked: {_told(error)}") from None
    found = {"asked in": asked.dtype}
    for question in QUESTIONS:
        try:
            found[question.name] = question.ask(asked)
        except NotTakenError as reason:
            found[question.name] = f"not taken: {reason}"
        except Exception as error:
            found[question.name] = f"raises {_told(error)}"
    return found


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines and not isinstance(error, NotTakenError) else str(error)
