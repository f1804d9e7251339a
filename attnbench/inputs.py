"""Input distributions: how q, k and v of a case are drawn. Importing this module does not import torch.

Tensors are drawn in fp32 on the CPU from a generator seeded by (distribution, seed, tensor, input set): every machine
checks the same numbers, then rounded to the case's dtype (8-bit cases: bf16 originals, quantized by `quantize`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.input_file import is_file, read_inputs
from attnbench.probe_inputs import PROBE_INPUTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# FlashAttention-3 paper (arXiv 2407.08608), section 4.3: N(0, 1) + N(0, 100) * Bernoulli(0.001), 100 being a variance.
OUTLIER_PROBABILITY = 0.001
OUTLIER_STD = 10.0
# Language models show a few channels of q and k far above the rest (LLM.int8(), arXiv 2208.07339, section 4).
OUTLIER_CHANNELS = 4
CHANNEL_GAIN = 10.0
# Attention sink (arXiv 2309.17453): the first key collects most of the weight. The others' logits are N(0, 2), so that
# their exponentials add up to seqlen_k e on average; a logit of log(seqlen_k) + 3 then takes e^2 / (1 + e^2) = 88 %.
SINK_LOGIT = 3.0
# Scaled logits reach about +-LARGE_LOGIT, far outside what exp can take without the running maximum.
LARGE_LOGIT = 1000.0


class Draw(NamedTuple):
    """What a distribution works with: fp32 q, k, v in the layout of Inputs, and the case. Changed in place."""

    q: Tensor
    k: Tensor
    v: Tensor
    case: Case
    generator: torch.Generator


class Distribution(NamedTuple):
    about: str
    apply: Callable[[Draw], None]


def _normal(draw: Draw) -> None:
    """Plain N(0, 1), which is what the tensors already hold."""


def _outliers(draw: Draw) -> None:
    import torch

    for tensor in (draw.q, draw.k, draw.v):
        hit = torch.rand(tensor.shape, generator=draw.generator) < OUTLIER_PROBABILITY
        tensor += hit * torch.randn(tensor.shape, generator=draw.generator) * OUTLIER_STD


def _channel_outliers(draw: Draw) -> None:
    import torch

    channels = torch.randperm(draw.q.shape[-1], generator=draw.generator)[:OUTLIER_CHANNELS]
    draw.q[..., channels] *= CHANNEL_GAIN**0.5
    draw.k[..., channels] *= CHANNEL_GAIN


def _sink(draw: Draw) -> None:
    """Key 0 lies in a direction that all queries share, its scaled logit SINK_LOGIT above the log of seqlen_k."""
    draw.q.add_(1.0)
    draw.k[:, 0] = (math.log(draw.k.shape[1]) + SINK_LOGIT) / (draw.case.scale * draw.q.shape[-1])


def _large_logits(draw: Draw) -> None:
    """Scaled logits with a standard deviation of a quarter of LARGE_LOGIT."""
    gain = (LARGE_LOGIT / 4 / (draw.case.scale * draw.q.shape[-1] ** 0.5)) ** 0.5
    draw.q.mul_(gain)
    draw.k.mul_(gain)


def _rising(draw: Draw) -> None:
    """Logits rise with the key index, so that every key tile brings a new running maximum."""
    _ramp(draw, rising=True)


def _falling(draw: Draw) -> None:
    """Logits fall with the key index, so that the first tile's maximum must survive."""
    _ramp(draw, rising=False)


def _ramp(draw: Draw, rising: bool) -> None:
    import torch

    seqlen_k, head_dim = draw.k.shape[1], draw.k.shape[-1]
    ramp = torch.linspace(0.0, 40.0, seqlen_k)
    ramp = ramp if rising else ramp.flip(0)
    draw.q[..., 0] = 1.0 / (draw.case.scale * head_dim**0.5)
    draw.k[..., 0] = ramp[None, :, None] * head_dim**0.5


DISTRIBUTIONS: dict[str, Distribution] = {
    "normal": Distribution("N(0, 1)", _normal),
    "outliers": Distribution(
        "N(0, 1) + N(0, 100) * Bernoulli(0.001), the FlashAttention-3 paper's error test", _outliers
    ),
    "channel_outliers": Distribution("N(0, 1) with 4 channels of q and k far above the rest", _channel_outliers),
    "sink": Distribution("N(0, 1) with a first key that collects most of the weight", _sink),
    "large_logits": Distribution("scaled logits up to about 1000", _large_logits),
    "rising": Distribution("logits rise with the key index: a new running maximum in every key tile", _rising),
    "falling": Distribution("logits fall with the key index: the first maximum must survive", _falling),
    **{name: Distribution(*probe) for name, probe in PROBE_INPUTS.items()},
}


def make_inputs(case: Case, device: str = "cpu", input_set: int = 0) -> Inputs:
    """The inputs of a case. Further input sets (for cache rotation) are other draws of the same distribution.

    Raises KeyError for an unknown distribution, InputFileError for a bad file (suites are checked for both beforehand).
    """
    import torch

    from attnbench.quantize import quantize

    drawn = drawn_inputs(case, input_set=input_set)
    dtype = torch.float16 if case.dtype == "fp16" else torch.bfloat16
    q, k, v = (tensor.to(dtype).to(device) for tensor in (drawn.q, drawn.k, drawn.v))
    return Inputs(q, k, v, quantize(q, k, v, case) if case.is_fp8 else None)


def drawn_inputs(case: Case, device: str = "cpu", input_set: int = 0) -> Inputs:
    """The same inputs in fp32, before they are rounded to the case's dtype."""
    if is_file(case.inputs):
        return Inputs(*(tensor.to(device) for tensor in read_inputs(case, input_set)))
    q = _randn(case, "q", input_set, case.seqlen_q, case.num_heads, case.head_dim)
    k = _randn(case, "k", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim)
    v = _randn(case, "v", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim_v)
    DISTRIBUTIONS[case.inputs].apply(Draw(q, k, v, case, _generator(case, "more", input_set)))
    return Inputs(q.to(device), k.to(device), v.to(device))


def input_tensors(inputs: Inputs) -> list[Tensor]:
    """q, k, v, and for 8-bit dtypes what `Quantized` holds, in the order of its fields."""
    quantized = inputs.quantized
    made = [] if quantized is None else [getattr(quantized, field.name) for field in fields(quantized)]
    return [inputs.q, inputs.k, inputs.v, *made]


def copy_inputs(inputs: Inputs) -> Inputs:
    """The same numbers in other memory: another input set for a rotation that keeps the cache cold."""
    return _inputs_of([tensor.clone() for tensor in input_tensors(inputs)])


@contextmanager
def in_place_of(inputs: Inputs, other: Inputs) -> Iterator[Inputs]:
    """The numbers of `other` in the memory of `inputs`, as new tensors; afterwards `inputs` hold their own again."""
    kept = copy_inputs(inputs)
    try:
        for tensor, numbers in zip(input_tensors(inputs), input_tensors(other)):
            tensor.copy_(numbers)
        yield _inputs_of([tensor.detach() for tensor in input_tensors(inputs)])
    finally:
        for tensor, numbers in zip(input_tensors(inputs), input_tensors(kept)):
            tensor.copy_(numbers)


def _inputs_of(tensors: list[Tensor]) -> Inputs:
    q, k, v, *made = tensors
    return Inputs(q, k, v, Quantized(*made) if made else None)


def input_bytes(case: Case) -> int:
    """Bytes of one input set: q, k, v, and for 8-bit dtypes the quantized tensors beside their 16-bit originals."""
    queries = case.seqlen_q * case.num_heads * case.head_dim
    keys_and_values = case.seqlen_k * case.num_heads_kv * (case.head_dim + case.head_dim_v)
    return case.batch * (queries + keys_and_values) * (3 if case.is_fp8 else 2)


def _randn(case: Case, name: str, input_set: int, seqlen: int, heads: int, dim: int) -> Tensor:
    import torch

    return torch.randn((case.batch, seqlen, heads, dim), generator=_generator(case, name, input_set))


def _generator(case: Case, name: str, input_set: int) -> torch.Generator:
    import torch

    seed = zlib.crc32(f"{case.inputs}.{case.seed}.{name}.{input_set}".encode())
    return torch.Generator().manual_seed(seed)
