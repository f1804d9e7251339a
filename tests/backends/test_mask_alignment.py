"""Where the causal mask lies: backends that answer both corners, those that say which one they have, and functions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import attnbench
from attnbench.backends import builtin
from attnbench.case import MASK_ALIGNMENTS, Case
from attnbench.plugins import FunctionBackend
from attnbench.reference.inputs import make_inputs

LENGTHS = list(itertools.product((1, 5, 33, 70), (1, 5, 40, 129)))
# Those whose kernels have no other mask; what is not installed here says so by `unavailable`, not by `unsupported`.
BOTTOM_RIGHT_ONLY = ("fa2", "fa3", "cudnn", "triton", "flashinfer", "hopper_emulated", "hopper_fp8_emulated")


def posed(seqlen_q, seqlen_k, alignment="top_left", **fields):
    return Case.make(**{"batch": 1, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "num_heads": 2, "head_dim": 64,
                        "dtype": "fp16", "causal": True, "mask_alignment": alignment, **fields})  # fmt: skip


def defined(q, k, v, last):
    """Query by query, from the glossary: out and lse (batch, seqlen_q, heads, ...), fp64."""
    out, lse = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64), torch.full(q.shape[:3], -math.inf).double()
    for batch, row, head in itertools.product(*map(range, q.shape[:3])):
        seen = slice(0, max(0, last(row) + 1))
        scores = k[batch, seen, head].double() @ q[batch, row, head].double() * q.shape[3] ** -0.5
        if len(scores):
            out[batch, row, head] = torch.softmax(scores, 0) @ v[batch, seen, head].double()
            lse[batch, row, head] = torch.logsumexp(scores, 0)
    return out, lse


@pytest.mark.parametrize("name", ["naive", "cpu_flash"])
@pytest.mark.parametrize("alignment", MASK_ALIGNMENTS)
def test_both_corners(name, alignment):
    backend = builtin()[name]
    for seqlen_q, seqlen_k in LENGTHS:
        case = posed(seqlen_q, seqlen_k, alignment)
        assert backend.unsupported(case) is None
        inputs = make_inputs(case)
        found = backend.prepare(case, inputs)()
        corner = {"bottom_right": seqlen_k - seqlen_q, "top_left": 0}[alignment]
        out, lse = defined(inputs.q, inputs.k, inputs.v, lambda row: row + corner)  # noqa: B023  # called at once
        torch.testing.assert_close(found.out.double(), out, rtol=2e-2, atol=2e-3)
        if found.lse is not None:
            torch.testing.assert_close(found.lse.double(), lse.transpose(1, 2), rtol=1e-3, atol=1e-3)
        assert found.lse is not None or (name == "cpu_flash" and corner < 0), "torch's lse of a blind row is 0"


@pytest.mark.parametrize("name", BOTTOM_RIGHT_ONLY)
def test_a_backend_without_the_other_corner_says_so_where_it_matters(name):
    backend = builtin()[name]
    fields = {"dtype": "e4m3"} if "fp8" in name else {}
    reason = backend.unsupported(posed(64, 128, **fields))
    assert "bottom-right aligned, not top left" in reason
    for case in (posed(128, 128, **fields), posed(64, 128, causal=False, **fields)):
        assert "aligned" not in str(backend.unsupported(case)), "both corners are the same problem there"


def attend(q, k, v, *, causal, softmax_scale, mask_alignment="bottom_right"):
    shift = k.shape[1] - q.shape[1] if mask_alignment == "bottom_right" else 0
    mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(shift) if causal else None
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=softmax_scale)
    return out.transpose(1, 2).nan_to_num(0.0).half()


def untold(q, k, v, *, causal, softmax_scale):
    return attend(q, k, v, causal=causal, softmax_scale=softmax_scale)


def test_a_function_is_told_the_corner_if_it_takes_the_argument(tmp_path):
    suite = tmp_path / "both.yaml"
    axes = "seqlen_q: [5, 40], seqlen_k: 40, batch: 1, num_heads: 2, head_dim: 16, dtype: fp16, causal: true"
    suite.write_text(f"groups:\n  - name: g\n    axes: {{{axes}, mask_alignment: [bottom_right, top_left]}}\n")
    told = attnbench.check(attend, suite=str(suite))
    assert [record.status for record in told] == ["ok"] * 4
    blind = attnbench.check(untold, suite=str(suite))
    assert sorted(record.status for record in blind) == ["ok", "ok", "ok", "unsupported"]
    (refused,) = (record for record in blind if record.status == "unsupported")
    assert 'give it the argument "mask_alignment"' in refused.reason and refused.case.seqlen_q == 5


def test_a_function_that_ignores_the_corner_is_told_so():
    def ignores(q, k, v, *, causal, softmax_scale, mask_alignment):
        return attend(q, k, v, causal=causal, softmax_scale=softmax_scale)

    with pytest.raises(AssertionError, match="causal is aligned bottom right, not top left"):
        attnbench.check(ignores, posed(70, 130))


def test_what_has_no_signature_takes_nothing_further():
    assert not FunctionBackend("max", max, "none").takes("mask_alignment")
