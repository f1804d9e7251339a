"""Input distributions: how q, k and v of a case are drawn.

Each function changes a `Draw` in place. `DISTRIBUTIONS` are for any case; those of probes have an answer that is known
beforehand, with a rule of its own in `attnbench.correctness.exact_rules`, or bring one weakness of kernels to light.
With N(0, 1) inputs the output shrinks like 1 / sqrt(seqlen), so that a mask that is off by one at seqlen 65536 passes
every tolerance in use; these inputs keep such a mistake as large as the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from attnbench.case import Case

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# A needle's logit: unrelated sign vectors of 64 entries stay about 100 below it, and exp(-60) is nothing in any dtype.
NEEDLE_LOGIT = 240.0
# Every tile width in use (64, 80, 96, 128, 176, 192, 224) has edges near multiples of this many keys.
EDGE_SPACING = 16
# Equal logits of a row reach this far, both ways.
EQUAL_LOGIT = 1000.0
# Between ln(448 / 256) = 0.56, where e4m3's largest number is passed with a P scale of 2^8, and 4 ln 2 = 2.77, the
# smallest rescale threshold in use (FlashAttention issues 2577, 2716): a step that a lazy rescale skips and saturates.
STEP_LOGIT = 2.5
STEP_KEYS = 64
# Where the rise ends, after 64k keys: at head_dim 576 k is then 60000, which fp16 holds.
STEP_HIGHEST = 2500.0
# Noise of the stepped logits, small against a step.
STEP_NOISE = 0.25
# The tail's weights are about exp(-9): below e4m3's smallest number at P scale 1, far above it at P scale 256.
TAIL_LOGIT = 9.0
# Its square is beyond 5e4, which kernels have taken for infinity (flashinfer issue 4267).
LOW_CHANNEL = 256.0
# Products of multiples of this are multiples of 2^-6: with -65536 beside them, sums have 23 bits.
LOW_STEP = 0.125
# Over all keys, in units in the last place; columns begin between 1 and 1.9, and so stay below 2.
TREND = 2.0
TREND_COLUMNS = 0.9
# Four of these pass fp16's largest number, 65504.
LARGE_V = 2.0**14
# The constant vector added to every key, per channel; it shifts all logits of a row alike, which softmax ignores.
KEY_SHIFT = 4.0
# Factors that reach the descales, head by head; q and k take opposite ones, so that the logits stay.
HEAD_FACTORS = (1e-6, 1.0, 1e3)
LOGIT_FACTORS = (1e3, 1.0, 1e-3)
# Largest numbers, smallest ones (2^-9 and 2^-16 are subnormal), and plain ones: of e4m3, and of e5m2.
E4M3_EXTREMES = (448.0, -448.0, 2.0**-9, -(2.0**-9), 3 * 2.0**-9, 2.0**-6, 1.0, -1.0, 0.0)
E5M2_EXTREMES = (57344.0, -57344.0, 2.0**-16, -(2.0**-16), 3 * 2.0**-16, 2.0**-14, 1.0, -1.0, 0.0)


class Draw(NamedTuple):
    """What a distribution works with: fp32 q, k, v in the layout of Inputs, and the case. Changed in place."""

    q: Tensor
    k: Tensor
    v: Tensor
    case: Case
    generator: torch.Generator


class ProbeInput(NamedTuple):
    about: str
    apply: Callable[[Draw], None]


def boundary_keys(case: Case) -> Tensor:
    """(seqlen_q,) the last key that each query may see; full attention: key i modulo seqlen_k. -1: it sees none."""
    import torch

    rows = torch.arange(case.seqlen_q)
    if not case.causal:
        return rows % case.seqlen_k
    return (rows + case.diagonal).clamp(-1, case.seqlen_k - 1)


def edge_keys(case: Case) -> Tensor:
    """(seqlen_q,) for each query one of the keys beside a tile edge that it may see, each in turn, the last first."""
    import torch

    starts = torch.arange(0, case.seqlen_k, EDGE_SPACING)
    edges: Tensor = torch.cat((starts, (starts - 1).clamp(min=0), torch.tensor([case.seqlen_k - 1]))).unique()
    rows = torch.arange(case.seqlen_q)
    visible = (rows + 1 + case.diagonal).clamp(0, case.seqlen_k)
    visible = visible if case.causal else torch.full_like(rows, case.seqlen_k)
    count = torch.searchsorted(edges, visible)
    target = edges[(count - 1 - rows % count.clamp(min=1)).clamp(min=0)]
    return target.masked_fill(count == 0, -1)


# The key that a query's needle stands at, by distribution.
NEEDLE_KEYS: dict[str, Callable[[Case], Tensor]] = {
    "needle": boundary_keys,
    "needle_hidden": boundary_keys,
    "needle_edges": edge_keys,
}


def _sign_keys(draw: Draw) -> None:
    import torch

    draw.k.copy_(torch.randint(0, 2, draw.k.shape, generator=draw.generator) * 2.0 - 1.0)


def _point_queries(draw: Draw, keys: Tensor) -> None:
    """Queries along `keys` (batch, seqlen_q, num_heads_kv, head_dim) with logits of NEEDLE_LOGIT."""
    case = draw.case
    gain = NEEDLE_LOGIT / (case.scale * case.head_dim)
    draw.q.copy_(keys.repeat_interleave(case.num_heads // case.num_heads_kv, dim=2) * gain)


def _needle(draw: Draw) -> None:
    """Query i matches one key only, the last it may see (full: key i modulo seqlen_k): out row i is that v row."""
    _sign_keys(draw)
    _point_queries(draw, draw.k[:, boundary_keys(draw.case).clamp(min=0)])


def _needle_hidden(draw: Draw) -> None:
    """As `needle`, and the query matches the next key too, which causal hides: a mask too wide by one mixes both."""
    _sign_keys(draw)
    target = boundary_keys(draw.case)
    keys = draw.k[:, target.clamp(min=0)]
    if draw.case.causal:
        following = target + 1
        inside = (following < draw.case.seqlen_k)[None, :, None, None]
        keys = keys * (target >= 0)[None, :, None, None]
        keys = keys + draw.k[:, following.clamp(max=draw.case.seqlen_k - 1)] * inside
    _point_queries(draw, keys)


def _needle_edges(draw: Draw) -> None:
    """Query i matches one key beside a tile edge, or the last key."""
    _sign_keys(draw)
    _point_queries(draw, draw.k[:, edge_keys(draw.case).clamp(min=0)])


def _v_ones(draw: Draw) -> None:
    draw.v.fill_(1.0)


def _equal_logits(draw: Draw) -> None:
    """All keys alike, and whole numbers in q: every logit of a row is the same float in any order of summing."""
    import torch

    largest = EQUAL_LOGIT / (draw.case.scale * draw.case.head_dim)
    rows = torch.rand((*draw.q.shape[:-1], 1), generator=draw.generator) * 2.0 - 1.0
    draw.q.copy_((rows * largest).round().expand_as(draw.q))
    draw.k.fill_(1.0)


def _nan_v(draw: Draw) -> None:
    """One row of v is NaN, in the middle of the keys of one head."""
    case = draw.case
    draw.v[0, case.seqlen_k // 2, case.num_heads_kv // 2] = float("nan")


def _nan_q(draw: Draw) -> None:
    """The last row of one head's q is NaN: it sees a key whatever the mask."""
    draw.q[0, -1, draw.case.num_heads // 2] = float("nan")


def _nan_k(draw: Draw) -> None:
    """One row of k is NaN, in the middle of the keys of one head."""
    case = draw.case
    draw.k[0, case.seqlen_k // 2, case.num_heads_kv // 2] = float("nan")


def _low_logits(draw: Draw) -> None:
    """All products of q and k near -LOW_PRODUCT: a maximum that starts at 0, or at a finite number in place of -inf, is
    never lowered to them. The other entries are few enough digits that fp32 sums them exactly in any order."""
    for tensor, channel in ((draw.q, LOW_CHANNEL), (draw.k, -LOW_CHANNEL)):
        tensor.mul_(1.0 / LOW_STEP).round_().mul_(LOW_STEP)
        tensor[..., 0] = channel


def _steps(draw: Draw) -> None:
    """Logits rise by STEP_LOGIT from each 64 keys to the next, up to STEP_HIGHEST."""
    import torch

    case = draw.case
    draw.q.mul_(STEP_NOISE)
    steps = torch.arange(case.seqlen_k).div(STEP_KEYS, rounding_mode="floor")
    level = (steps * STEP_LOGIT).clamp(max=STEP_HIGHEST)
    draw.q[..., 0] = 1.0 / (case.scale * case.head_dim**0.5)
    draw.k[..., 0] = level[None, :, None] * case.head_dim**0.5


def _same_sign_v(draw: Draw) -> None:
    """v of one sign: partial sums only grow, so that an accumulator that truncates loses some with every addition."""
    draw.v.abs_().add_(1.0)


def _v_trend(draw: Draw) -> None:
    """v from 1 to 2, a column much as its neighbour key, rising over all keys by TREND units in the last place of the
    case's dtype: what each tile adds to the mean of those before it is less than half of such a unit."""
    import torch

    unit = {"fp16": 2.0**-10, "fp32": 2.0**-23}.get(draw.case.key_dtype, 2.0**-7)
    batch, seqlen_k, heads, dim = draw.v.shape
    column = 1.0 + TREND_COLUMNS * torch.rand((batch, 1, heads, dim), generator=draw.generator)
    rise = torch.linspace(0.0, TREND * unit, seqlen_k)[None, :, None, None]
    # So that rounding to the dtype keeps the rise on average.
    dither = torch.rand(draw.v.shape, generator=draw.generator) - 0.5
    draw.v.copy_(column + rise + dither * unit)


def _large_sums(draw: Draw) -> None:
    """v of one sign between 2^14 and 2^15: the output is as large, and sums over a few keys pass fp16's 65504."""
    import torch

    draw.v.copy_(LARGE_V * (1.0 + torch.rand(draw.v.shape, generator=draw.generator)))


def _sink_tail(draw: Draw) -> None:
    """Key 0 takes almost all the weight and has v = 0: the output is what the many small weights leave."""
    case = draw.case
    draw.q.add_(1.0)
    draw.k[:, 0] = TAIL_LOGIT / (case.scale * case.head_dim)
    draw.v[:, 0] = 0.0


def _shifted_keys(draw: Draw) -> None:
    import torch

    draw.k.add_(torch.randn(draw.k.shape[-1], generator=draw.generator) * KEY_SHIFT)


def _fp8_extremes(draw: Draw) -> None:
    import torch

    values = torch.tensor(E5M2_EXTREMES if draw.case.dtype == "e5m2" else E4M3_EXTREMES)
    draw.v.copy_(values[torch.randint(0, len(values), draw.v.shape, generator=draw.generator)])


def _fp8_descales(draw: Draw) -> None:
    """Heads of v a millionth and a thousand times as large; q and k a thousand times, and a thousandth."""
    case = draw.case
    ratio = case.num_heads // case.num_heads_kv
    for head in range(case.num_heads_kv):
        draw.v[:, :, head] *= HEAD_FACTORS[head % 3]
        draw.k[:, :, head] /= LOGIT_FACTORS[head % 3]
        draw.q[:, :, head * ratio : (head + 1) * ratio] *= LOGIT_FACTORS[head % 3]


PROBE_INPUTS: dict[str, ProbeInput] = {
    "needle": ProbeInput("each query matches one key, the last it may see when causal: exact retrieval", _needle),
    "needle_hidden": ProbeInput("needle, and the next key, which causal hides, matches too", _needle_hidden),
    "needle_edges": ProbeInput("each query matches one key beside a tile edge, or the last key", _needle_edges),
    "v_ones": ProbeInput("v is 1 everywhere, and so must the output be", _v_ones),
    "equal_logits": ProbeInput("all logits of a row equal, up to 1000: the output is the mean of v", _equal_logits),
    "nan_v": ProbeInput("one row of v is NaN: every row that sees it is NaN, other heads are not", _nan_v),
    "nan_q": ProbeInput("one row of q is NaN, and so must that row of the output be, and no other head", _nan_q),
    "nan_k": ProbeInput("one row of k is NaN: every row that sees it is NaN, other heads are not", _nan_k),
    "low_logits": ProbeInput("all products of q and k near -65536: a maximum that starts above them", _low_logits),
    "steps": ProbeInput("logits rise by 2.5 every 64 keys: a rescale that is skipped saturates e4m3", _steps),
    "same_sign_v": ProbeInput("v of one sign: an accumulator that truncates shows as a bias", _same_sign_v),
    "v_trend": ProbeInput("v rises slowly with the key: an output that is also the accumulator loses it", _v_trend),
    "large_sums": ProbeInput(
        "v of 16384 and more: sums over a few keys pass fp16's range, the output not", _large_sums
    ),
    "sink_tail": ProbeInput("one key takes the weight and has v = 0; the tail must not vanish", _sink_tail),
    "shifted_keys": ProbeInput("N(0, 1) with a constant vector added to every key", _shifted_keys),
    "fp8_extremes": ProbeInput("v of the largest, subnormal and zero 8-bit numbers", _fp8_extremes),
    "fp8_descales": ProbeInput("heads a millionth and a thousand times as large: extreme descales", _fp8_descales),
}


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


class Distribution(NamedTuple):
    about: str
    apply: Callable[[Draw], None]


def _normal(draw: Draw) -> None:
    """Plain N(0, 1), which is what the tensors already hold."""


def _outliers(draw: Draw) -> None:
    import torch

    for tensor in (draw.q, draw.k, draw.v):
        hit = torch.rand(tensor.shape, generator=draw.generator) < OUTLIER_PROBABILITY
        tensor.add_(hit * torch.randn(tensor.shape, generator=draw.generator) * OUTLIER_STD)


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
