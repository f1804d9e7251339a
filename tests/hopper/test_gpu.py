"""On a Hopper GPU: every variant against fp64, in both layouts, on another stream; from another thread; compiled."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from test_library import reference

from attnbench.backends.hopper import BACKENDS
from attnbench.hopper.forward import BoundForward
from attnbench.hopper.schedules import SCHEDULES, built_kernel

pytestmark = pytest.mark.gpu

# (batch, seqlen_q, seqlen_k, num_heads, num_heads_kv): tails, GQA, rows that see no key, many tiles.
SHAPES = ((1, 1, 1, 1, 1), (2, 130, 200, 4, 2), (1, 300, 70, 2, 1), (2, 700, 1500, 8, 8))
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Loose on purpose: attnbench's own judge has the sharp limits; these tests find what is plainly broken, fast.
TOLERANCE = 2e-2


@pytest.fixture(autouse=True)
def hopper_machine():
    reason = next((reason for reason in (backend.unavailable() for backend in BACKENDS) if reason), None)
    if reason:
        pytest.skip(f"not run: {reason}")


def draw(shape, dtype: str, head_dim: int, transposed: bool):
    batch, seqlen_q, seqlen_k, num_heads, num_heads_kv = shape
    sizes = {"q": (seqlen_q, num_heads), "k": (seqlen_k, num_heads_kv), "v": (seqlen_k, num_heads_kv)}
    named = {name: torch.randn((batch, *size, head_dim)).to("cuda", TORCH[dtype]) for name, size in sizes.items()}
    if transposed:
        named = {name: one.transpose(1, 2).contiguous().transpose(1, 2) for name, one in named.items()}
    return named


@pytest.mark.parametrize("transposed", [False, True], ids=["bshd", "bhsd"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_variant_is_right(schedule, transposed):
    torch.manual_seed(0)
    kernel, stream = built_kernel(schedule), torch.cuda.Stream()
    for variant in (row for row in kernel.variants if row.schedule == schedule):
        for shape in SHAPES:
            for causal in (False, True) if variant.causal is None else (variant.causal,):
                named = draw(shape, variant.dtype, variant.head_dim, transposed)
                bound = BoundForward.of(kernel.library, variant, **named, causal=causal, softmax_scale=0.1)
                bound.out.fill_(float("nan"))
                bound.lse.fill_(float("nan"))
                stream.wait_stream(torch.cuda.current_stream())
                bound.launch(stream.cuda_stream)
                stream.synchronize()
                check(bound, reference(**named, causal=causal, scale=0.1), f"{variant.key}, {shape}, causal {causal}")


def check(bound: BoundForward, expected, where: str) -> None:
    for actual, wanted, tolerance in zip((bound.out, bound.lse), expected, (TOLERANCE, 1e-3)):
        torch.testing.assert_close(
            actual.double(), wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}"
        )


def test_a_thread_that_has_done_nothing_with_cuda_launches():
    """It has no CUDA context before the launch, which a tensor map needs."""
    named = draw((2, 130, 200, 4, 2), "bf16", 128, transposed=False)
    library = built_kernel("overlap").library
    variant = library.find("overlap", "bf16", 128, False)
    bound = BoundForward.of(library, variant, **named, causal=False, softmax_scale=0.1)
    torch.cuda.synchronize()
    failures = []

    def launch() -> None:
        try:
            bound.launch()
        except RuntimeError as error:
            failures.append(error)

    thread = Thread(target=launch)
    thread.start()
    thread.join()
    assert not failures
    torch.cuda.synchronize()
    check(bound, reference(**named, causal=False, scale=0.1), variant.key)


def test_operator_under_compile():
    from attnbench.hopper.operators import hopper_forward

    named = draw((2, 130, 200, 4, 2), "bf16", 128, transposed=False)
    torch.library.opcheck(hopper_forward, (*named.values(), True, 0.1, "overlap"))
    compiled = torch.compile(lambda q, k, v: hopper_forward(q, k, v, True, 0.1, "overlap"), fullgraph=True)
    for actual, expected in zip(compiled(**named), hopper_forward(*named.values(), True, 0.1, "overlap")):
        assert torch.equal(actual, expected)
