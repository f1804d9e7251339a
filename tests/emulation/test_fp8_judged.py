"""The emulated FP8 kernels before the harness's own judge: backend, argument struct, E1, E2, E3, probes, repetitions.

The emulation sums as Hopper's tensor core is modelled to (attnbench.reference.fp8), so that E1 is held against the
accumulator that each backend declares.
"""

from __future__ import annotations

import pytest

from attnbench import check
from attnbench.backends import builtin
from attnbench.hopper.toolchain import KERNELS

SOURCE = KERNELS / "fwd_fp8.cu"
# Groups of suites/edges.yaml, and what to keep of each.
EDGES = (
    {"group": "lengths_e4m3", "seqlen": [1, 129]},
    {"group": "blocks_e4m3", "seqlen_q": 300, "head_dim": [64, 128]},
    {"group": "gqa", "num_heads_kv": 3},
    {"group": "decode", "num_heads_kv": 3, "seqlen_k": 129},
    {"group": "decode_probes", "seqlen_k": 1023},
    {"group": "p_scale"},
    {"group": "sink_tail"},
    {"group": "extreme_inputs", "causal": True, "seqlen_k": 1025, "inputs": ["rising", "sink"]},
)
# Rows dominated by single keys; every scaling, and every head_dim with blocks.
SCHEMES = """
name: schemes
defaults:
  {dtype: e4m3, batch: 1, num_heads: 2, num_heads_kv: 1, seqlen_q: 70, seqlen_k: 300, inputs: outliers, causal: true}
groups:
  - name: scalings
    time: false
    axes: {head_dim: 128, hadamard: [false, true], scaling: [none, tensor, head, block, token]}
  - name: head_dims
    time: false
    axes: {head_dim: [64, 256], hadamard: true, scaling: [block, head]}
"""


NAMES = ("hopper_fp8_emulated", "hopper_fp8_emulated[two_level]")
# Two levels add what happens between tiles of one block and of another; the rest of them by `make test-full`.
TWO_LEVELS = ("blocks_e4m3", "sink_tail")


@pytest.fixture(params=NAMES)
def backend(request):
    return builtin()[request.param]


def edges():
    for name in NAMES:
        for only in EDGES:
            full = name == NAMES[1] and only["group"] not in TWO_LEVELS
            yield pytest.param(name, only, id=f"{name}-{only['group']}", marks=[pytest.mark.full] if full else [])


@pytest.mark.parametrize(("backend", "only"), list(edges()), indirect=["backend"])
def test_edges(backend, only):
    records = check(backend, "edges", only={"dtype": "e4m3", **only})
    assert all(record.status == "ok" for record in records)
    assert all({"e1", "e1_emulated", "e2", "e3"} <= set(record.accuracy.values) for record in records)


def test_schemes_and_head_dims(backend, tmp_path):
    """Every scaling that the kernels take, with and without Hadamard, every head_dim; scaling by token is refused."""
    suite = tmp_path / "schemes.yaml"
    suite.write_text(SCHEMES)
    records = check(backend, str(suite))
    assert {record.status for record in records if record.case.scaling != "token"} == {"ok"}
    refused = {record.reason for record in records if record.case.scaling == "token"}
    assert refused == {"it takes one descale a head or a block of tokens, not scaling by token"}


def test_probes(backend):
    """Every probe of the laboratory on more queries than keys: tails, NaN, extreme and zero descales."""
    only = {"group": "probes", "dtype": "e4m3", "causal": True, "seqlen_q": 200}
    (record,) = check(backend, "edges", only=only)
    assert record.status == "ok" and record.accuracy is not None
