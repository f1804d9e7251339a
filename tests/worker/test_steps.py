"""Sequences of calls: every step is judged, and a cache that is wrong after the first call shows."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from paths import ROOT

import attnbench
from attnbench.backend import Base, Outputs
from attnbench.backends import builtin
from attnbench.case import Case, CaseError, forward_flops
from attnbench.records.record import STEPS_DIFFER

SHAPE = {"batch": 2, "num_heads": 4, "num_heads_kv": 2, "head_dim": 32, "dtype": "fp16", "calls": 5}


def posed(**fields):
    return Case.make(**{**SHAPE, "seqlen_q": 33, "seqlen_k": 47, "causal": True, **fields})


class Cached(Base):
    """Right by default; each method is what one of the faults below changes."""

    name = "cached"
    stateful = True

    def store(self, number, x):
        return x

    def seen(self, number, keys):
        return keys

    def prepare(self, case, inputs):
        kept = []

        def step(number, q, k, v):
            kept.append((self.store(number, k), self.store(number, v)))
            k, v = (self.seen(number, torch.cat(parts, dim=1)) for parts in zip(*kept))
            mask = None
            if case.causal and number == 0:
                mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(case.diagonal)
            q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=case.scale, enable_gqa=True
            )
            return Outputs(out.transpose(1, 2).nan_to_num(0.0).to(inputs.q.dtype).contiguous())

        return step


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_right_cache_is_right_at_every_step(dtype, causal):
    for fields in ({}, {"seqlen_q": 50, "seqlen_k": 20}, {"seqlen_q": 1, "seqlen_k": 1}, {"inputs": "large_logits"}):
        (record,) = attnbench.check(Cached(), posed(dtype=dtype, causal=causal, **fields))
        assert record.status == "ok" and record.measurement is None
        rules = [check.rule for check in record.accuracy.checks]
        assert [rule.split(":")[0] for rule in rules] == [*(f"step {n}" for n in range(5)), STEPS_DIFFER]


class EightBitCache(Cached):
    """Exact on its first call; what it keeps is 8-bit, as of a library whose cache is so by default."""

    def store(self, number, x):
        return x

    def seen(self, number, keys):
        if number == 0:
            return keys
        unit = keys.abs().amax(dim=3, keepdim=True).clamp(min=1e-6) / 127
        return (keys / unit).round() * unit


class ForgetsLast(Cached):
    def seen(self, number, keys):
        return keys if number == 0 else keys[:, :-1]


class FromElsewhere(Cached):
    """Keeps its cache between sequences."""

    def __init__(self):
        self.before = 0

    def prepare(self, case, inputs):
        call, self.before = super().prepare(case, inputs), self.before + 1
        factor = float(self.before)
        return lambda number, q, k, v: Outputs(call(number, q, k, v).out * factor)


@pytest.mark.parametrize("fault", [EightBitCache(), ForgetsLast()], ids=lambda fault: type(fault).__name__)
def test_a_cache_that_is_wrong_later_is_found_and_the_cause_says_where(fault):
    with pytest.raises(AssertionError) as told:
        attnbench.check(fault, posed())
    text = str(told.value)
    assert "step 1: " in text and "step 0: " not in text
    assert "the first call is right: what is kept between calls is not" in text


def test_a_sequence_that_depends_on_an_earlier_one_is_found():
    with pytest.raises(AssertionError, match=re.escape(STEPS_DIFFER)):
        attnbench.check(FromElsewhere(), posed())


def test_a_step_that_writes_its_inputs_or_has_another_shape_breaks_the_contract():
    class Writes(Cached):
        def store(self, number, x):
            return x.zero_() if number == 2 else x

    with pytest.raises(AssertionError, match="step 2: it wrote its inputs: k and v changed"):
        attnbench.check(Writes(), posed())

    class Longer(Cached):
        def prepare(self, case, inputs):
            call = super().prepare(case, inputs)
            return lambda number, q, k, v: call(number, q.repeat(1, 1 + (number == 3), 1, 1), k, v)

    with pytest.raises(AssertionError, match=r"step 3: out has shape \(2, 2, 4, 32\), not \(2, 1, 4, 32\)"):
        attnbench.check(Longer(), posed())


def test_who_keeps_no_state_is_unsupported(tmp_path):
    suite = tmp_path / "steps.yaml"
    axes = "batch: 1, num_heads: 2, head_dim: 16, seqlen: 9, dtype: fp16, calls: [1, 3]"
    suite.write_text(f"groups: [{{name: g, axes: {{{axes}}}}}]\n")
    one, several = attnbench.check(builtin()["naive"], suite=str(suite))
    assert (one.status, several.status) == ("ok", "unsupported") and several.case_key.endswith("-calls=3")
    assert several.reason == "it keeps no state between calls (it is not `stateful`)"


def test_flops_are_those_of_all_calls():
    for seqlen_q, seqlen_k, causal in itertools.product((1, 5), (5, 9), (False, True)):
        case = posed(seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal, calls=4)
        pairs = sum(
            not causal or key <= row + seqlen_k - seqlen_q for row in range(seqlen_q) for key in range(seqlen_k)
        )
        pairs += sum(seqlen_k + further for further in (1, 2, 3))
        assert forward_flops(case) == pairs * 2 * 4 * 2 * 64


def test_what_cannot_be_a_sequence():
    for fields, words in (({"calls": 0}, "calls must be between 1 and 1024"), ({"calls": 5000}, "between 1 and 1024"),
                          ({"dtype": "e4m3"}, "calls applies to fp16, bf16 and fp32 only, not to e4m3")):  # fmt: skip
        with pytest.raises(CaseError, match=words):
            posed(**fields)


def test_the_class_on_the_page_is_right(tmp_path):
    page = (ROOT / "docs" / "reference" / "backend-protocol.md").read_text()
    code = page.split("### State between calls")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(compile(code, "page", "exec"), names)
    (backend,) = names["BACKENDS"]
    for case in (posed(), posed(calls=1), posed(causal=False, num_heads_kv=4)):
        assert [record.status for record in attnbench.check(backend, case)] == ["ok"]
