"""On a Hopper GPU: every FP8 variant against fp64 in two layouts and on another stream, captured, and compiled.

What draws, launches and compares runs on the emulated library too, so that a first contact finds faults of the kernels
and not of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from test_library import reference

from attnbench.backends.hopper_fp8 import BACKENDS
from attnbench.case import Case
from attnbench.hopper.build import build_emulated
from attnbench.hopper.forward import BoundForward, Fp8Operands, bind, reference_operands
from attnbench.hopper.library import KernelLibrary, Variant
from attnbench.hopper.schedules import FP8_SCHEDULES, built_kernel
from attnbench.hopper.toolchain import KERNELS
from attnbench.reference.inputs import make_inputs
from attnbench.reference.quantize import plain_inputs

# (batch, seqlen_q, seqlen_k, num_heads, num_heads_kv): tails, GQA, rows that see no key, many tiles.
SHAPES = ((1, 1, 1, 1, 1), (2, 130, 200, 4, 2), (1, 300, 70, 2, 1), (2, 700, 1500, 8, 8))
SCALE = 0.1
# Schedules that answer every head_dim, mask and scaling; the others are choices that some of these leave open.
MAIN = ("fp8", "fp8_two_level")
# e4m3 rounds a weight by up to 1 part in 16; the rest is for sums and for rounding the output. Loose on purpose:
# attnbench's own judge has the sharp limits; these tests find what is plainly broken, fast.
WEIGHT_UNIT, SLACK, LSE_SLACK = 2.0**-4, 2e-2, 1e-2


@dataclass(frozen=True)
class Expected:
    """fp64 answers in the kernel's layout. magnitude: the same sum with the values' magnitudes."""

    out: torch.Tensor
    lse: torch.Tensor
    magnitude: torch.Tensor

    def check(self, bound: BoundForward, where: str) -> None:
        # NaN, as what was never written shows, is within no limit.
        within = (bound.out.double() - self.out).abs() <= WEIGHT_UNIT * self.magnitude + SLACK
        assert bool(within.all()), f"{where}: {int((~within).sum())} of {within.numel()} outputs are off"
        near = (bound.lse.double() - self.lse).abs() <= LSE_SLACK
        right = near | (bound.lse == self.lse)  # -inf where a row sees no key
        assert bool(right.all()), f"{where}: {int((~right).sum())} of {right.numel()} lse are off"


def draw(shape, head_dim: int, scaling: str, causal: bool, strided: bool, device: str) -> tuple[Fp8Operands, Expected]:
    """strided: q and k as (batch, heads, seqlen, head_dim) in memory, rows of V^T longer than what is read of them."""
    batch, seqlen_q, seqlen_k, num_heads, num_heads_kv = shape
    case = Case.make(batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads=num_heads, num_heads_kv=num_heads_kv,
                     head_dim=head_dim, dtype="e4m3", causal=causal, scaling=scaling)  # fmt: skip
    inputs = make_inputs(case, device)
    plain, operands = plain_inputs(case, inputs), reference_operands(case, inputs.quantized)
    out, lse = reference(plain.q, plain.k, plain.v, causal, SCALE)
    magnitude, _ = reference(plain.q, plain.k, plain.v.abs(), causal, SCALE)
    if strided:
        q, k = (one.transpose(1, 2).contiguous().transpose(1, 2) for one in (operands.q, operands.k))
        operands = replace(operands, q=q, k=k, v_t=in_longer_rows(operands.v_t))
    return operands, Expected(out, lse, magnitude)


def in_longer_rows(v_t: torch.Tensor) -> torch.Tensor:
    """The same values, 16 bytes of NaN between one row and the next: what a map with the wrong size would read."""
    memory = v_t.new_full((*v_t.shape[:3], v_t.shape[3] + 16), float("nan"))
    memory[..., : v_t.shape[3]] = v_t
    return memory[..., : v_t.shape[3]]


def bound_forward(
    library: KernelLibrary, variant: Variant, operands: Fp8Operands, causal: bool, out_dtype: torch.dtype
) -> BoundForward:
    bound = bind(library, variant, operands, causal, SCALE, 256, out_dtype)
    bound.out.fill_(float("nan"))
    bound.lse.fill_(float("nan"))
    return bound


def check_variant(library: KernelLibrary, variant: Variant, shape, strided: bool, device: str, launch) -> None:
    """Under every scaling that the variant takes. launch: of a BoundForward, complete when it returns."""
    out_dtype = torch.float16 if strided else torch.bfloat16
    for scaling in ("tensor", "head", "block") if variant.takes_blocks else ("tensor", "head"):
        causal = bool(variant.causal)
        operands, expected = draw(shape, variant.head_dim, scaling, causal, strided, device)
        bound = bound_forward(library, variant, operands, causal, out_dtype)
        launch(bound)
        expected.check(bound, f"{variant.key}, {shape}, {scaling}")


@pytest.fixture
def hopper_machine():
    reason = next((reason for reason in (backend.unavailable() for backend in BACKENDS) if reason), None)
    if reason:
        pytest.skip(f"not run: {reason}")


@pytest.fixture(scope="module")
def emulated() -> KernelLibrary:
    return KernelLibrary(build_emulated(KERNELS / "fwd_fp8.cu"))


@pytest.mark.parametrize("strided", [False, True], ids=["packed", "strided"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("schedule", MAIN)
def test_these_checks_accept_the_emulated_kernels(emulated, schedule, head_dim, strided):
    for variant in (row for row in emulated.variants if (row.schedule, row.head_dim) == (schedule, head_dim)):
        check_variant(emulated, variant, (1, 130, 70, 2, 1), strided, "cpu", BoundForward.launch)


def test_these_checks_refuse_what_is_wrong(emulated):
    variant = emulated.find("fp8", "e4m3", 64, False, True)
    operands, expected = draw((1, 130, 150, 2, 1), 64, "block", False, False, "cpu")
    unwritten = bound_forward(emulated, variant, operands, False, torch.bfloat16)
    with pytest.raises(AssertionError, match="16640 of 16640 outputs are off"):
        expected.check(unwritten, "not launched")
    turned = operands.v_t.view(torch.uint8).flip(-1).view(torch.float8_e4m3fn)
    swapped = bound_forward(emulated, variant, replace(operands, v_t=turned), False, torch.bfloat16)
    swapped.launch()
    with pytest.raises(AssertionError, match="outputs are off"):
        expected.check(swapped, "keys of v in another order")


@pytest.mark.gpu
@pytest.mark.parametrize("strided", [False, True], ids=["packed", "strided"])
@pytest.mark.parametrize("schedule", FP8_SCHEDULES)
def test_every_variant_is_right(hopper_machine, schedule, strided):
    kernel, stream = built_kernel(schedule), torch.cuda.Stream()

    def launch(bound: BoundForward) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        bound.launch(stream.cuda_stream)
        stream.synchronize()

    for variant in (row for row in kernel.variants if row.schedule == schedule):
        for shape in SHAPES:
            check_variant(kernel.library, variant, shape, strided, "cuda", launch)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("schedule", MAIN)
def test_a_captured_launch_replays_to_the_same_bits(hopper_machine, schedule, causal):
    """Twice, since the counter that deals out the tiles must be set back: hence more tiles than multiprocessors."""
    library = built_kernel(schedule).library
    for head_dim in (64, 128, 256):
        operands, expected = draw((1, 1500, 1500, 32, 8), head_dim, "block", causal, False, "cuda")
        variant = library.find(schedule, "e4m3", head_dim, causal, True)
        bound = bound_forward(library, variant, operands, causal, torch.bfloat16)
        bound.launch(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        expected.check(bound, f"{variant.key}, direct")
        direct, graph = bound.out.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            bound.launch(torch.cuda.current_stream().cuda_stream)
        for replay in ("first", "second"):
            bound.out.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(bound.out, direct), f"{variant.key}, {replay} replay"


@pytest.mark.gpu
@pytest.mark.parametrize("schedule", MAIN)
def test_operator_under_compile(hopper_machine, schedule):
    from attnbench.hopper.operators import hopper_fp8_forward

    one, _ = draw((2, 130, 200, 4, 2), 128, "block", True, False, "cuda")
    tensors = (one.q, one.k, one.v_t, one.q_descale, one.k_descale, one.v_descale)
    fixed = (one.block_size, True, SCALE, 256.0, torch.bfloat16, schedule)
    # Not test_schema: it adds to its arguments, which torch cannot do to e4m3.
    torch.library.opcheck(hopper_fp8_forward, (*tensors, *fixed), test_utils=("test_faketensor",))
    compiled = torch.compile(lambda *given: hopper_fp8_forward(*given, *fixed), fullgraph=True)
    for actual, expected in zip(compiled(*tensors), hopper_fp8_forward(*tensors, *fixed)):
        assert torch.equal(actual, expected)
