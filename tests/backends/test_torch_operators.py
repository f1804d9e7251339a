"""fa2 and cudnn through torch's operators: layouts, masks and LSE, with eager code behind the operators on the CPU."""

from __future__ import annotations

import pytest
import torch
from plain_attention import attention, relative_rmse

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.reference.inputs import make_inputs


def heads_last(tensor):
    return tensor.transpose(1, 2)


@pytest.fixture
def cpu_kernels():
    """Stands in for both CUDA kernels: FlashAttention-2 bottom-right with lse +inf where a row sees nothing, cuDNN
    top-left with a trailing dimension on lse. Records what they were given."""
    seen = {}
    library = torch.library.Library("aten", "IMPL")
    nothing = torch.empty(0)

    def flash(query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
        seen.update(strides=query.stride(), dropout=dropout_p, debug=return_debug_mask)
        out, lse = attention(*map(heads_last, (query, key, value)), scale, is_causal)
        lse = torch.where(torch.isinf(lse), torch.inf, lse).float()
        return heads_last(out.to(query.dtype)), lse, nothing, nothing, 1, 1, nothing, nothing, nothing

    def cudnn(query, key, value, bias, compute_lse, dropout_p=0.0, is_causal=False, return_debug=False, *, scale=None):
        seen.update(bias=bias, compute_lse=compute_lse)
        out, lse = attention(*map(heads_last, (query, key, value)), scale, is_causal, bottom_right=False)
        lse = lse.float().unsqueeze(-1)
        return heads_last(out.to(query.dtype)), lse, nothing, nothing, 1, 1, nothing, nothing, nothing

    library.impl("_scaled_dot_product_flash_attention", flash, "CPU")
    library.impl("_scaled_dot_product_cudnn_attention", cudnn, "CPU")
    yield seen
    library._destroy()


SHAPES = [
    {"seqlen": 33, "causal": True},
    {"seqlen": 33, "num_heads_kv": 2, "softmax_scale": 0.3},
    {"seqlen_q": 20, "seqlen_k": 33, "causal": True, "num_heads_kv": 1},
    {"seqlen_q": 33, "seqlen_k": 20, "causal": True},
]


@pytest.mark.parametrize("values", SHAPES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_fa2(values, dtype, cpu_kernels):
    case = Case.make(**{"batch": 2, "num_heads": 4, "head_dim": 64, "dtype": dtype, **values})
    inputs = make_inputs(case)
    outputs = builtin()["fa2"].prepare(case, inputs)()
    exact, lse = attention(inputs.q, inputs.k, inputs.v, case.scale, case.causal)
    assert outputs.out.shape == (2, case.seqlen_q, 4, 64) and outputs.out.dtype == inputs.q.dtype
    assert relative_rmse(outputs.out, exact) < 5e-3
    assert cpu_kernels["dropout"] == 0.0 and cpu_kernels["debug"] is False
    assert cpu_kernels["strides"] == heads_last(inputs.q).stride()  # a view: nothing is copied
    if case.seqlen_q > case.seqlen_k:
        assert outputs.lse is None  # its +inf would be wrong, and changing it would take a kernel
    else:
        torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-5)


def test_fa2_refuses_another_kernel_behind_its_operator(monkeypatch, cpu_kernels):
    import torch.nn.attention as torch_attention

    monkeypatch.setattr(torch_attention, "current_flash_attention_impl", lambda: "FA4", raising=False)
    case = Case.make(batch=1, seqlen=16, num_heads=1, head_dim=64)
    with pytest.raises(RuntimeError, match='runs "FA4", not FlashAttention-2'):
        builtin()["fa2"].prepare(case, make_inputs(case))


@pytest.mark.parametrize("values", SHAPES[:2])
def test_cudnn_operator(values, cpu_kernels):
    case = Case.make(**{"batch": 2, "num_heads": 4, "head_dim": 64, **values})
    inputs = make_inputs(case)
    outputs = builtin()["cudnn"].prepare(case, inputs)()
    exact, lse = attention(inputs.q, inputs.k, inputs.v, case.scale, case.causal)
    assert relative_rmse(outputs.out, exact) < 5e-3
    assert outputs.lse.shape == (2, 4, 33)
    torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-5)
    assert cpu_kernels["bias"] is None and cpu_kernels["compute_lse"] is True


@pytest.mark.parametrize("name", ["fa2", "cudnn"])
def test_no_other_kernel_can_answer(name):
    """Without the kernel (a CPU tensor, no fake) the call fails instead of running something else."""
    case = Case.make(batch=1, seqlen=16, num_heads=1, head_dim=64)
    call = builtin()[name].prepare(case, make_inputs(case))
    with pytest.raises(NotImplementedError, match=f"{'flash' if name == 'fa2' else 'cudnn'}_attention"):
        call()
