"""The fp64 oracle against a brute-force formulation that shares no code with it, and the eager budget beside it."""

import dataclasses
import itertools
import math

import pytest
import torch

from attnbench.backend import Inputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.reference import rows as rows_module
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import eager, oracle
from attnbench.reference.quantize import dequantize, quantize
from attnbench.reference.rows import FULL_SEQLEN, SAMPLE_RANDOM_ROWS, SAMPLE_TILE, choose_rows, visible_keys


def make(**fields):
    return Case.make(**{"batch": 2, "seqlen": 32, "num_heads": 4, "head_dim": 16, "dtype": "fp16", **fields})


def brute_force(case, q, k, v):
    """out (batch, num_heads, seqlen_q, head_dim_v) and lse, query by query, from the definition in Case's glossary."""
    ratio = case.num_heads // case.num_heads_kv
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(case.batch, case.num_heads, case.seqlen_q, case.head_dim_v, dtype=torch.float64)
    lse = torch.full(out.shape[:3], -math.inf, dtype=torch.float64)
    for batch, head, row in itertools.product(range(case.batch), range(case.num_heads), range(case.seqlen_q)):
        last = row if case.mask_alignment == "top_left" else row + case.seqlen_k - case.seqlen_q
        visible = [j for j in range(case.seqlen_k) if not case.causal or j <= last]
        if not visible:
            continue
        scores = torch.einsum("d,jd->j", q[batch, row, head], k[batch, visible, head // ratio]) * case.scale
        out[batch, head, row] = torch.einsum("j,jd->d", torch.softmax(scores, 0), v[batch, visible, head // ratio])
        lse[batch, head, row] = torch.logsumexp(scores, 0)
    return out, lse


SHAPES = (
    {"seqlen": 1},
    {"seqlen": 2, "num_heads": 1},
    {"seqlen": 31},
    {"seqlen_q": 1, "seqlen_k": 33},
    {"seqlen_q": 7, "seqlen_k": 19, "num_heads_kv": 2},
    {"seqlen_q": 19, "seqlen_k": 7, "num_heads_kv": 1},
    {"seqlen_q": 13, "seqlen_k": 1, "head_dim_v": 5},
    {"seqlen": 17, "num_heads": 6, "num_heads_kv": 2, "head_dim": 24, "head_dim_v": 8},
    {"seqlen": 9, "softmax_scale": 1.5, "inputs": "large_logits"},
    {"seqlen": 16, "inputs": "needle", "num_heads_kv": 2},
    {"seqlen": 3, "head_dim": 1},
    {"seqlen_q": 7, "seqlen_k": 19, "mask_alignment": "top_left"},
    {"seqlen_q": 19, "seqlen_k": 7, "num_heads_kv": 2, "mask_alignment": "top_left", "inputs": "needle_hidden"},
    {"seqlen_q": 1, "seqlen_k": 5, "mask_alignment": "top_left"},
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_oracle_is_the_definition(shape, causal):
    case = make(**shape, causal=causal)
    inputs = make_inputs(case)
    out, lse = brute_force(case, inputs.q, inputs.k, inputs.v)
    found = oracle(case, inputs, choose_rows(case, "full", "cpu"))
    torch.testing.assert_close(found.out, out, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.lse, lse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(19, 7), (130, 1), (300, 299)])
def test_rows_that_see_no_key_have_output_zero_and_lse_minus_infinity(seqlen_q, seqlen_k):
    case = make(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=True)
    inputs = make_inputs(case)
    blind = seqlen_q - seqlen_k
    for result in (oracle, eager):
        found = result(case, inputs, choose_rows(case, "full", "cpu"))
        assert (found.out[:, :, :blind] == 0).all() and (found.lse[:, :, :blind] == -math.inf).all()
        assert found.lse[:, :, blind:].isfinite().all() and (found.out[:, :, blind:] != 0).any(dim=-1).all()


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("scaling", ["none", "tensor", "head", "token", "block"])
def test_an_e4m3_oracle_takes_the_dequantized_tensors_or_the_originals(scaling, hadamard):
    case = make(dtype="e4m3", scaling=scaling, hadamard=hadamard, block_size=8, num_heads_kv=2, causal=True)
    inputs = make_inputs(case)
    rows = choose_rows(case, "full", "cpu")
    made = inputs.quantized
    descaled = [dequantize(getattr(made, n), getattr(made, f"{n}_descale"), case) for n in "qkv"]
    for originals, tensors in ((False, descaled), (True, (inputs.q, inputs.k, inputs.v))):
        out, lse = brute_force(case, *tensors)
        found = oracle(case, inputs, rows, originals=originals)
        torch.testing.assert_close(found.out, out, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found.lse, lse, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["bf16", "e4m3"])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_change_nothing(dtype, causal, monkeypatch):
    case = make(dtype=dtype, seqlen_q=90, seqlen_k=70, causal=causal, num_heads_kv=2)
    inputs = make_inputs(case)
    rows = choose_rows(case, "full", "cpu")
    whole = oracle(case, inputs, rows), eager(case, inputs, rows)
    assert len(list(rows_module.parts(case, rows))) == 1
    for chunk_bytes in (1, 8 * 70 * 2 * 13):
        monkeypatch.setattr(rows_module, "CHUNK_BYTES", chunk_bytes)
        chunked = oracle(case, inputs, rows), eager(case, inputs, rows)
        assert len(list(rows_module.parts(case, rows))) > 20
        torch.testing.assert_close(chunked[0].out, whole[0].out, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(chunked[0].lse, whole[0].lse, rtol=1e-12, atol=1e-12)
        # The eager one rounds: matrix products of other shapes may sum in another order.
        torch.testing.assert_close(chunked[1].out, whole[1].out, rtol=2.0**-7, atol=1e-3)


def test_sampled_rows_equal_the_full_ones():
    case = make(seqlen_q=700, seqlen_k=500, causal=True, num_heads_kv=2)
    inputs = make_inputs(case)
    full = oracle(case, inputs, choose_rows(case, "full", "cpu"))
    for coverage in ("sampled", "spot"):
        rows = choose_rows(case, coverage, "cpu")
        found = oracle(case, inputs, rows)
        index = rows.index[..., None].expand_as(found.out)
        torch.testing.assert_close(found.out, full.out.gather(2, index), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.lse, full.lse.gather(2, rows.index), rtol=1e-12, atol=1e-12)


def test_a_sample_is_stratified_and_says_what_it_is():
    case = make(seqlen=1000)
    rows = choose_rows(case, "sampled", "cpu")
    assert rows.coverage == "sampled"
    index = rows.index
    assert tuple(index.shape) == (2, 4, 2 * math.ceil(1000 / SAMPLE_TILE) + SAMPLE_RANDOM_ROWS)
    assert (index.diff(dim=-1) >= 0).all() and index.min() == 0 and index.max() == 999
    edges = {*range(0, 1000, SAMPLE_TILE), *range(SAMPLE_TILE - 1, 1000, SAMPLE_TILE), 999}
    assert all(edges <= set(index[b, h].tolist()) for b, h in itertools.product(range(2), range(4)))
    assert not torch.equal(index[0, 0], index[1, 3])
    assert torch.equal(index, choose_rows(case, "sampled", "cpu").index)
    assert not torch.equal(index, choose_rows(make(seqlen=1000, seed=1), "sampled", "cpu").index)


def test_auto_is_full_up_to_its_limit():
    assert choose_rows(make(seqlen=FULL_SEQLEN), "auto", "cpu").coverage == "full"
    assert choose_rows(make(seqlen=FULL_SEQLEN + 1), "auto", "cpu").coverage == "sampled"


def test_visible_keys_count_what_the_mask_lets_through():
    for seqlen_q, seqlen_k in ((5, 9), (9, 5), (6, 6)):
        case = make(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=True)
        index = torch.arange(seqlen_q)
        expected = [sum(j <= i + seqlen_k - seqlen_q for j in range(seqlen_k)) for i in range(seqlen_q)]
        assert visible_keys(case, index).tolist() == expected
        assert visible_keys(make(seqlen_k=seqlen_k), index).tolist() == [seqlen_k] * seqlen_q


class PeakMemory(torch.utils._python_dispatch.TorchDispatchMode):
    """Follows the bytes of all storages that torch operations make while it is on, and their peak."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = (torch.multiprocessing.reductions.StorageWeakRef(storage), storage.nbytes())
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def peak_bytes(function, seqlen, num_heads=2):
    case = make(batch=1, num_heads=num_heads, num_heads_kv=1, seqlen=seqlen, causal=True)
    inputs, rows = make_inputs(case), choose_rows(case, "full", "cpu")
    with PeakMemory() as memory:
        function(case, inputs, rows)
    return memory.peak


@pytest.mark.parametrize("function", [oracle, eager])
def test_extra_memory_does_not_grow_with_seqlen_squared(function, monkeypatch):
    scores_bytes = 2 * 512**2 * (8 if function is oracle else 4)
    assert peak_bytes(function, 512) > scores_bytes  # all rows in one chunk, and the meter sees it
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 2**16)
    peaks = [peak_bytes(function, seqlen) for seqlen in (128, 256, 512)]
    assert peaks[2] < scores_bytes / 4, peaks
    assert peaks[2] - peaks[1] < 2.5 * (peaks[1] - peaks[0]) + 2**16, peaks  # linear: q, k, v and the results


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "shape", [{"seqlen": 160}, {"seqlen_q": 40, "seqlen_k": 90, "num_heads_kv": 2, "causal": True}], ids=str
)
def test_naive_computes_the_budget_exactly(dtype, shape):
    case = make(dtype=dtype, **shape)
    inputs = make_inputs(case)
    budget = eager(case, inputs, choose_rows(case, "full", "cpu"))
    outputs = builtin()["naive"].prepare(case, inputs)()
    exact = oracle(case, inputs, choose_rows(case, "full", "cpu"))
    errors = [(out.double() - exact.out).square().mean().sqrt() for out in (budget.out, outputs.out.transpose(1, 2))]
    assert float(errors[1]) == pytest.approx(float(errors[0]), rel=0.05)
    torch.testing.assert_close(outputs.lse.double(), exact.lse, rtol=0, atol=1e-5)


def test_the_emulated_pipeline_is_close_to_its_own_oracle_and_no_closer():
    """Its error is that of rounding P to e4m3: 2**-4 relative per weight, averaged over the keys."""
    case = make(batch=1, num_heads=2, dtype="e4m3", seqlen=256, head_dim=64)
    for accumulator, p_scale in (("fp32", 256), ("hopper", 256), ("two_level", 256), ("fp32", 1), ("fp32", 16)):
        case = dataclasses.replace(case, p_scale=p_scale)
        inputs, rows = make_inputs(case), choose_rows(case, "full", "cpu")
        exact = oracle(case, inputs, rows)
        found = eager(case, inputs, rows, accumulator)
        error = float((found.out - exact.out).square().mean().sqrt() / exact.out.square().mean().sqrt())
        assert 0.005 < error < 0.06, (accumulator, p_scale, error)
        torch.testing.assert_close(found.lse, exact.lse, rtol=0, atol=2e-3)


def test_p_scale_keeps_small_weights_from_flushing_to_zero():
    """One dominating key: with P scale 1 e4m3 loses the tail by design, with 256 it does not."""
    errors = {}
    for p_scale in (1, 256):
        case = make(batch=1, num_heads=1, dtype="e4m3", seqlen_q=1, seqlen_k=1024, p_scale=p_scale, scaling="tensor")
        inputs = make_inputs(case)
        inputs.q.fill_(1.0)
        inputs.k.zero_()
        inputs.k[:, 0] = 7.5 / (case.scale * case.head_dim)
        inputs.v.fill_(1.0)
        inputs.v[:, 0] = -1.0
        inputs = Inputs(inputs.q, inputs.k, inputs.v, quantize(inputs.q, inputs.k, inputs.v, case))
        rows = choose_rows(case, "full", "cpu")
        exact = oracle(case, inputs, rows).out
        errors[p_scale] = float((eager(case, inputs, rows).out - exact).abs().max())
    assert errors[1] > 10 * errors[256], errors
