"""On a Hopper GPU: the quantize kernel's bits are the reference quantizer's, captured and compiled too."""

from __future__ import annotations

import itertools

import pytest
import torch

from attnbench.backends.hopper import Hopper
from attnbench.case import Case
from attnbench.hopper import quantizer
from attnbench.hopper.library import transpose_values
from attnbench.hopper.quantizer import BoundQuantize, DeviceQuantized, Scheme
from attnbench.hopper.schedules import DEFAULT_SCHEDULE
from attnbench.reference.quantize import quantize

pytestmark = pytest.mark.gpu

# (batch, seqlen_q, seqlen_k, num_heads, num_heads_kv): one token, tails with GQA, many more tiles than CTAs.
SHAPES = ((1, 1, 1, 1, 1), (2, 130, 300, 4, 2), (2, 2000, 3001, 16, 8))
SCALINGS = (("none", 128), ("tensor", 128), ("head", 128), ("block", 128), ("block", 32), ("block", 384))
SCHEMES = tuple(Scheme(*scaling, hadamard, seed=3) for scaling in SCALINGS for hadamard in (False, True))
CAPTURED = (Scheme("block", 128, True), Scheme("tensor", hadamard=True))  # one pass, two
NAMES = ("q", "k", "v_transposed", "q_descale", "k_descale", "v_descale")


@pytest.fixture(autouse=True)
def hopper_machine():
    reason = Hopper(DEFAULT_SCHEDULE).unavailable() or quantizer.missing()
    if reason:
        pytest.skip(f"not run: {reason}")


def draw(shape, head_dim: int, dtype: torch.dtype, transposed: bool = False) -> list[torch.Tensor]:
    batch, seqlen_q, seqlen_k, num_heads, num_heads_kv = shape
    generator = torch.Generator().manual_seed(head_dim + seqlen_q)
    tensors = []
    for seqlen, heads in ((seqlen_q, num_heads), (seqlen_k, num_heads_kv), (seqlen_k, num_heads_kv)):
        drawn = torch.randn((batch, seqlen, heads, head_dim), generator=generator)
        drawn *= 2.0 ** torch.randint(-9, 4, (batch, seqlen, 1, 1), generator=generator)
        drawn[:, 5::97, :, 3], drawn[:, 2::5] = float("nan"), 0.0
        one = drawn.to(dtype).to("cuda")
        tensors.append(one.transpose(1, 2).contiguous().transpose(1, 2) if transposed else one)
    return tensors


def expected(shape, head_dim: int, scheme: Scheme, q, k, v) -> list[torch.Tensor]:
    batch, seqlen_q, seqlen_k, num_heads, num_heads_kv = shape
    case = Case.make(
        batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads=num_heads, num_heads_kv=num_heads_kv,
        head_dim=head_dim, dtype="e4m3", scaling=scheme.scaling, block_size=scheme.block_size,
        hadamard=scheme.hadamard, seed=scheme.seed,
    )  # fmt: skip
    made = quantize(q, k, v, case)
    return [made.q, made.k, transpose_values(made.v), made.q_descale, made.k_descale, made.v_descale]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(torch.uint8)


def same(made: DeviceQuantized, wanted: list[torch.Tensor], where: str) -> None:
    for name, want in zip(NAMES, wanted):
        got = getattr(made, name)
        assert got.shape == want.shape and torch.equal(bits(got), bits(want)), f"{name}: {where}"


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_bit_is_the_references(dtype, head_dim):
    """Against the reference on the CPU, and, where that costs nothing more, the reference on the GPU against it."""
    for (i, shape), scheme in itertools.product(enumerate(SHAPES), SCHEMES):
        operands = draw(shape, head_dim, dtype, transposed=i % 2 == 1)
        wanted = expected(shape, head_dim, scheme, *(one.cpu() for one in operands))
        same(quantizer.quantize_on_device(*operands, scheme), wanted, f"{shape}, {scheme}")
        for one, other in zip(expected(shape, head_dim, scheme, *operands), wanted):
            assert torch.equal(bits(one), bits(other)), f"the reference differs between CPU and GPU: {shape}, {scheme}"


@pytest.mark.parametrize("scheme", CAPTURED, ids=lambda scheme: scheme.scaling)
def test_a_captured_call_on_another_stream_gives_the_same_bits(scheme):
    operands = draw(SHAPES[1], 128, torch.bfloat16)
    wanted = expected(SHAPES[1], 128, scheme, *(one.cpu() for one in operands))
    bound = BoundQuantize.of(quantizer.built_library(), *operands, scheme)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bound.launch(torch.cuda.current_stream().cuda_stream)
    for _ in range(2):  # a workspace that kept the last largest magnitudes would show
        for name in NAMES:
            getattr(bound.made, name).view(torch.uint8).fill_(0xA5)
        graph.replay()
        torch.cuda.synchronize()
        same(bound.made, wanted, str(scheme))


def test_the_operator_under_compile():
    from attnbench.hopper.operators import hopper_quantize

    operands = draw(SHAPES[1], 128, torch.bfloat16)
    arguments = (*operands, "block", 128, True, 3)
    torch.library.opcheck(hopper_quantize, arguments)
    compiled = torch.compile(lambda q, k, v: hopper_quantize(q, k, v, "block", 128, True, 3), fullgraph=True)
    for one, other in zip(compiled(*operands), hopper_quantize(*arguments)):
        assert torch.equal(bits(one), bits(other))
