"""FlexAttention's mask by blocks; and the backend on the CPU kernel that torch compiles, in the full tests."""

from __future__ import annotations

import shutil

import pytest
import torch
from plain_attention import attention, relative_rmse
from torch.nn.attention.flex_attention import create_block_mask

from attnbench.backends import builtin
from attnbench.backends.flex import causal_block_mask
from attnbench.case import Case
from attnbench.reference.inputs import make_inputs

LENGTHS = [(1, 1), (128, 128), (129, 129), (113, 203), (203, 113), (1, 512), (512, 1), (257, 600), (600, 257)]


@pytest.mark.parametrize("seqlen_q, seqlen_k", LENGTHS)
def test_block_mask_equals_torchs(seqlen_q, seqlen_k):
    offset = seqlen_k - seqlen_q
    ours = causal_block_mask(seqlen_q, seqlen_k, seqlen_k - seqlen_q, "cpu")
    theirs = create_block_mask(lambda b, h, i, j: j <= i + offset, None, None, seqlen_q, seqlen_k, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for numbers, indices in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        counts = getattr(ours, numbers)
        assert torch.equal(counts, getattr(theirs, numbers))
        for block, count in enumerate(counts.flatten().tolist()):
            listed = [sorted(getattr(mask, indices)[0, 0, block, :count].tolist()) for mask in (ours, theirs)]
            assert listed[0] == listed[1]
    assert ours.seq_lengths == (seqlen_q, seqlen_k)


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="not run: torch needs g++ to compile FlexAttention for the CPU")
@pytest.mark.parametrize("seqlen_q, seqlen_k, causal", [(113, 203, True), (203, 113, True), (64, 130, False)])
def test_compiled_cpu_kernel(seqlen_q, seqlen_k, causal):
    case = Case.make(
        batch=2, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads=4, num_heads_kv=2, head_dim=64, causal=causal
    )
    inputs = make_inputs(case)
    outputs = builtin()["flex"].prepare(case, inputs)()
    exact, _ = attention(inputs.q, inputs.k, inputs.v, case.scale, causal)
    assert outputs.lse is None  # torch's CPU kernel gives none
    assert not outputs.out.isnan().any()
    assert relative_rmse(outputs.out, exact) < 8e-3


def test_the_eager_form_is_never_used(monkeypatch):
    """Where compilation fails the call fails; FlexAttention would otherwise materialize the scores."""
    from attnbench.backends import flex

    def broken(*arguments, **options):
        raise RuntimeError("no compiler")

    asked = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options) or broken)
    flex._compiled.cache_clear()
    try:
        case = Case.make(batch=1, seqlen=32, num_heads=2, head_dim=64)
        call = builtin()["flex"].prepare(case, make_inputs(case))
        with pytest.raises(RuntimeError, match="no compiler"):
            call()
    finally:
        flex._compiled.cache_clear()
    assert asked == {"fullgraph": True, "dynamic": False}
