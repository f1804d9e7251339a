"""attnbench::hopper_forward as torch sees it, on the CPU: by an emulated kernel, and by scalar attention."""

from __future__ import annotations

import pytest
import torch
from test_library import reference, tensors

from attnbench.hopper.library import KernelError
from attnbench.hopper.operators import hopper_forward, register_emulation


@pytest.fixture(params=[("scalar_library", "overlap"), ("emulated_library", "simple")], ids=["scalar", "emulated"])
def schedule(request) -> str:
    """A schedule that the operator answers on the CPU, by one library or the other."""
    fixture, name = request.param
    library = request.getfixturevalue(fixture)
    register_emulation(lambda schedule: library)
    return name


@pytest.mark.parametrize("causal", [False, True])
def test_opcheck(schedule, causal):
    named = tensors()
    torch.library.opcheck(hopper_forward, (*named.values(), causal, 0.125, schedule))


def test_opcheck_of_transposed_tensors(schedule):
    """(batch, heads, seqlen, head_dim) memory behind the operator's layout."""
    named = {name: one.transpose(1, 2).contiguous().transpose(1, 2) for name, one in tensors().items()}
    torch.library.opcheck(hopper_forward, (*named.values(), True, 0.125, schedule))


def test_numbers(schedule):
    named = tensors()
    out, lse = hopper_forward(*named.values(), True, 0.3, schedule)
    expected_out, expected_lse = reference(**named, causal=True, scale=0.3)
    torch.testing.assert_close(out.double(), expected_out, rtol=8e-3, atol=8e-3)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)


def test_compiles_without_a_graph_break(schedule):
    def layer(q, k, v):
        out, lse = hopper_forward(q * 2, k, v, False, 0.125, schedule)
        return out.sum(-1) + lse.transpose(1, 2)

    named = tensors()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**named), layer(**named))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_fake_shapes(dtype):
    """Sizes too big to exist: shapes, dtypes and strides come without a launch."""
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(4, 2**20, 32, 128, dtype=dtype)
        k = torch.empty(4, 2**20, 8, 128, dtype=dtype)
        out, lse = hopper_forward(q, k, k, True, 0.1, "overlap")
    assert out.shape == (4, 2**20, 32, 128) and out.is_contiguous()
    assert out.dtype == (torch.bfloat16 if dtype == torch.float8_e4m3fn else dtype)
    assert lse.shape == (4, 32, 2**20) and lse.dtype == torch.float32


def test_no_variant_is_one_clear_line(schedule):
    named = tensors()
    with pytest.raises(KernelError, match=".so has no variant ws, bf16, head_dim 64, not causal"):
        hopper_forward(*named.values(), False, 0.125, "ws")
