"""fa3 and flashinfer with fakes of their libraries that record what they are given and compute in fp64."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from plain_attention import attention, relative_rmse

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.reference.inputs import make_inputs
from attnbench.reference.quantize import dequantize


def install(monkeypatch, name, **contents):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class FakeFlashAttention3:
    """`flash_attn_func` of a newer build, or of an older one that always returns lse."""

    def __init__(self):
        self.seen = {}

    def _compute(self, q, k, v, softmax_scale, causal, descales):
        self.seen = {"dtype": q.dtype, "causal": causal, **{name: d for name, d in descales.items() if d is not None}}
        if descales["q_descale"] is not None:
            ratio = q.shape[2] // k.shape[2]
            q = q.float() * descales["q_descale"].repeat_interleave(ratio, dim=1)[:, None, :, None]
            k = k.float() * descales["k_descale"][:, None, :, None]
            v = v.float() * descales["v_descale"][:, None, :, None]
        out, lse = attention(q, k, v, softmax_scale, causal)
        return out.to(torch.bfloat16), lse.float()

    def newer(self, q, k, v, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None,
              return_attn_probs=False):  # fmt: skip
        descales = {"q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale}
        result = self._compute(q, k, v, softmax_scale, causal, descales)
        return result if return_attn_probs else result[0]

    def older(self, q, k, v, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None):
        descales = {"q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale}
        return (*self._compute(q, k, v, softmax_scale, causal, descales), "more")


@pytest.mark.parametrize("build", ["newer", "older"])
@pytest.mark.parametrize("module", ["flash_attn_interface", "fa3_fwd_interface"])
def test_fa3_bf16(module, build, monkeypatch):
    fake = FakeFlashAttention3()
    install(monkeypatch, module, flash_attn_func=getattr(fake, build))
    case = Case.make(batch=2, seqlen_q=20, seqlen_k=33, num_heads=4, num_heads_kv=2, head_dim=64, causal=True)
    inputs = make_inputs(case)
    outputs = builtin()["fa3"].prepare(case, inputs)()
    exact, lse = attention(inputs.q, inputs.k, inputs.v, case.scale, True)
    assert relative_rmse(outputs.out, exact) < 5e-3
    torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-5)
    assert fake.seen == {"dtype": torch.bfloat16, "causal": True}


@pytest.mark.parametrize(
    "values", [{"scaling": "head"}, {"scaling": "tensor", "num_heads_kv": 2}, {"scaling": "none", "num_heads_kv": 1}]
)
def test_fa3_descales(values, monkeypatch):
    fake = FakeFlashAttention3()
    install(monkeypatch, "fa3_fwd_interface", flash_attn_func=fake.newer)
    case = Case.make(**{"batch": 2, "seqlen": 33, "num_heads": 4, "head_dim": 64, "dtype": "e4m3", **values})
    inputs = make_inputs(case)
    outputs = builtin()["fa3"].prepare(case, inputs)()
    quantized = inputs.quantized
    q, k, v = (
        dequantize(getattr(quantized, name), getattr(quantized, f"{name}_descale"), case) for name in ("q", "k", "v")
    )
    exact, lse = attention(q, k, v, case.scale, False)
    assert relative_rmse(outputs.out, exact) < 5e-3
    torch.testing.assert_close(outputs.lse.double(), lse, rtol=1e-5, atol=1e-5)
    assert fake.seen["dtype"] == torch.float8_e4m3fn
    for name in ("q_descale", "k_descale", "v_descale"):
        assert fake.seen[name].shape == (2, case.num_heads_kv) and fake.seen[name].is_contiguous()


def test_fa3_head_descales_keep_their_order(monkeypatch):
    fake = FakeFlashAttention3()
    install(monkeypatch, "fa3_fwd_interface", flash_attn_func=fake.newer)
    case = Case.make(batch=2, seqlen=16, num_heads=3, head_dim=64, dtype="e4m3")
    inputs = make_inputs(case)
    descale = torch.arange(1.0, 7.0).reshape(2, 3)
    quantized = replace(inputs.quantized, q_descale=descale, k_descale=descale * 10, v_descale=descale * 100)
    builtin()["fa3"].prepare(case, replace(inputs, quantized=quantized))()
    assert torch.equal(fake.seen["q_descale"], descale)
    assert torch.equal(fake.seen["k_descale"], descale * 10)
    assert torch.equal(fake.seen["v_descale"], descale * 100)


def test_full_build_goes_first(monkeypatch):
    fake, other = FakeFlashAttention3(), FakeFlashAttention3()
    install(monkeypatch, "flash_attn_interface", flash_attn_func=fake.newer)
    install(monkeypatch, "fa3_fwd_interface", flash_attn_func=other.newer)
    case = Case.make(batch=1, seqlen=16, num_heads=1, head_dim=64, dtype="fp16")
    assert builtin()["fa3"].unsupported(case) is None
    builtin()["fa3"].prepare(case, make_inputs(case))()
    assert fake.seen and not other.seen


# What tokenspeed-fa3 3.0.0.post20260810 says of itself; its library has kernels of 64, 128, 192 and 256 columns alone.
TOKENSPEED_FLAGS = {
    "FLASHATTENTION_DISABLE_HDIM64": False, "FLASHATTENTION_DISABLE_HDIM96": True,
    "FLASHATTENTION_DISABLE_HDIM128": False, "FLASHATTENTION_DISABLE_HDIM192": False,
    "FLASHATTENTION_DISABLE_HDIM256": False, "FLASH_ATTENTION_DISABLE_HDIMDIFF64": True,
    "FLASH_ATTENTION_DISABLE_HDIMDIFF192": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("head_dim", "head_dim_v", "reason"),
    [
        (96, 96, "no kernel for head_dim 96 (FLASHATTENTION_DISABLE_HDIM96)"),
        (80, 80, "no kernel for head_dim 80 (FLASHATTENTION_DISABLE_HDIM96)"),
        (192, 128, "no kernel for head_dim 192 with head_dim_v 128 (FLASH_ATTENTION_DISABLE_HDIMDIFF192)"),
        (64, 256, "no kernel for head_dim 64 with head_dim_v 256 (FLASH_ATTENTION_DISABLE_HDIMDIFF64)"),
        *((head_dim, head_dim, None) for head_dim in (32, 64, 128, 192, 256)),
    ],
)
def test_fa3_refuses_what_its_build_left_out(head_dim, head_dim_v, reason, monkeypatch):
    case = Case.make(batch=1, seqlen=16, num_heads=1, head_dim=head_dim, head_dim_v=head_dim_v, dtype="bf16")
    install(monkeypatch, "flash_attn_interface", flash_attn_func=FakeFlashAttention3().newer)
    assert builtin()["fa3"].unsupported(case) is None, "a build that says nothing of itself has all of them"
    install(monkeypatch, "flash_attn_config", CONFIG={"build_flags": TOKENSPEED_FLAGS})
    assert builtin()["fa3"].unsupported(case) == (reason and f"the installed build has {reason}")
    monkeypatch.delitem(sys.modules, "flash_attn_interface")
    install(monkeypatch, "fa3_fwd_interface", flash_attn_func=FakeFlashAttention3().newer)
    assert builtin()["fa3"].unsupported(case) is None, "the flags are another build's"


class FakeRaggedWrapper:
    """Flattened sequences one after another, found again through the planned starts."""

    made: ClassVar[list[FakeRaggedWrapper]] = []

    def __init__(self, workspace, kv_layout, backend):
        assert workspace.dtype == torch.uint8 and kv_layout == "NHD"
        self.backend = backend
        self.made.append(self)

    def plan(self, qo_indptr, kv_indptr, num_qo_heads, num_kv_heads, head_dim_qk, *, head_dim_vo, causal, sm_scale,
             q_data_type, kv_data_type):  # fmt: skip
        assert qo_indptr.dtype == kv_indptr.dtype == torch.int32
        self.starts = qo_indptr.tolist(), kv_indptr.tolist()
        self.heads = num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo
        self.options = sm_scale, causal
        self.dtypes = q_data_type, kv_data_type

    def run(self, q, k, v):
        assert (q.shape[1], k.shape[1], q.shape[2], v.shape[2]) == self.heads
        assert (q.dtype, k.dtype) == self.dtypes
        parts = []
        for i in range(len(self.starts[0]) - 1):
            rows, keys = (slice(starts[i], starts[i + 1]) for starts in self.starts)
            out, _ = attention(q[None, rows], k[None, keys], v[None, keys], *self.options)
            parts.append(out[0])
        return torch.cat(parts).to(q.dtype)


@pytest.mark.parametrize("capability, kernels", [((9, 0), "fa3"), ((8, 0), "fa2")])
def test_flashinfer(capability, kernels, fake_gpu, monkeypatch):
    fake_gpu(capability)
    install(monkeypatch, "flashinfer")
    install(monkeypatch, "flashinfer.prefill", BatchPrefillWithRaggedKVCacheWrapper=FakeRaggedWrapper)
    case = Case.make(
        batch=3, seqlen_q=20, seqlen_k=33, num_heads=4, num_heads_kv=2, head_dim=192, head_dim_v=128, causal=True
    )
    inputs = make_inputs(case)
    backend = builtin()["flashinfer"]
    outputs = backend.prepare(case, inputs)()
    exact, _ = attention(inputs.q, inputs.k, inputs.v, case.scale, True)
    assert outputs.out.shape == (3, 20, 4, 128) and outputs.lse is None
    assert relative_rmse(outputs.out, exact) < 5e-3
    assert FakeRaggedWrapper.made[-1].backend == kernels
    assert backend.version().endswith(f"{kernels} kernels")
