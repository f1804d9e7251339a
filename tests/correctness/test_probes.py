"""Probes: right backends pass them all, and every rule of a probe's own fails on an output that breaks it."""

from dataclasses import replace

import pytest
import torch

import attnbench
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.correctness.merged import halves, weighted
from attnbench.correctness.probes import PROBES, kept
from attnbench.records.record import Check
from attnbench.reference.distributions import NEEDLE_KEYS, PROBE_INPUTS
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference, oracle
from attnbench.reference.rows import choose_rows
from attnbench.selftest import runner
from attnbench.selftest.bugs.masks import ThirdElementReadsSecond
from attnbench.selftest.bugs.outputs import DecodingGroupReversed, LseOfFewKeysInLog2
from attnbench.selftest.bugs.softmax import OutputIsAccumulator, PartsNotNormalized, ScaleSquaredWhereGiven
from attnbench.selftest.forward import TiledForward
from attnbench.settings import Checks, Timing
from attnbench.suite.load import load_suite, parse_suite
from attnbench.suite.source import SuiteError
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

FORWARD = TiledForward()


def make(**fields):
    shape = {"batch": 2, "seqlen_q": 70, "seqlen_k": 97, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}
    return Case.make(**{**shape, "dtype": "bf16", "causal": True, **fields})


def answered(case):
    """(reference, right outputs)"""
    reference = make_reference(case, make_inputs(case))
    return reference, FORWARD.prepare(case, reference.inputs)()


def failed(reference, outputs):
    return {check.rule for check in judge(reference, FORWARD, outputs).checks if not check.passed}


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [("bf16", "naive"), ("fp16", "cpu_flash"), ("e4m3", "fp8_emulated"), ("e5m2", "fp8_emulated")],
)  # fmt: skip
def test_right_backends_pass_every_probe_that_applies(dtype, backend):
    case = make(dtype=dtype, causal=backend != "cpu_flash")
    problem = Problem(case, "cpu", Checks(probes="all"), Timing(), 0, Phases())
    record = run_trial(problem, builtin()[backend], timed=False)
    assert record.status == "ok", record.reason
    ran = {check.rule.split(":")[0] for check in record.accuracy.checks if ":" in check.rule}
    missing = {name for name, probe in PROBES.items() if probe.cannot(case) is None} - ran
    assert missing == set()


@pytest.mark.parametrize("name", PROBE_INPUTS)
@pytest.mark.parametrize("dtype", ["bf16", "e4m3", "e5m2"])
def test_a_right_kernel_passes_on_the_probes_inputs(name, dtype):
    reference, outputs = answered(make(inputs=name, dtype=dtype))
    assert failed(reference, outputs) == set()


@pytest.mark.parametrize("name", NEEDLE_KEYS)
@pytest.mark.parametrize("causal", [False, True])
def test_needles_are_retrieved_in_nearly_every_row(name, causal):
    """Or the rule would hold for nothing."""
    case = make(inputs=name, causal=causal)
    reference, outputs = answered(case)
    target = NEEDLE_KEYS[name](case)
    head = torch.arange(4) // 2
    wanted = reference.inputs.v.double()[:, target][:, :, head].transpose(1, 2)
    exact = ((reference.oracle.out - wanted).abs() <= 1e-9 * wanted.abs().amax()).all(dim=-1)
    assert float(exact.double().mean()) > 0.95
    right = (outputs.out.transpose(1, 2).double() == wanted).all(dim=-1)
    assert bool(right[exact].all())


def test_one_wrong_element_of_a_retrieved_row_is_enough():
    reference, outputs = answered(make(inputs="needle"))
    outputs.out[1, 40, 2, 5] = outputs.out[1, 40, 2, 5] * (1 + 2**-7)
    assert failed(reference, outputs) == {"rows that did not retrieve their key's v"}


def test_edge_needles_stand_at_edges_and_at_the_last_key():
    case = make(inputs="needle_edges", causal=False)
    keys = NEEDLE_KEYS["needle_edges"](case).tolist()
    assert keys[0] == case.seqlen_k - 1
    assert {0, 15, 16, 63, 64, 79, 80, 95, 96} <= set(keys)
    causal = NEEDLE_KEYS["needle_edges"](make(inputs="needle_edges", seqlen_q=97))
    assert bool((causal <= torch.arange(97)).all())


def test_the_output_with_v_of_ones_may_not_be_off_by_more_than_rounding():
    reference, outputs = answered(make(inputs="v_ones"))
    outputs.out[0, 3, 1] = 1.0 + 3 * 2.0**-7
    assert "output with v = 1, off 1 by" in failed(reference, outputs)


def test_equal_logits_give_the_mean_of_v_in_every_row():
    case = make(inputs="equal_logits")
    reference, outputs = answered(case)
    rows = torch.arange(case.seqlen_q)[:, None] + case.seqlen_k - case.seqlen_q
    seen = (torch.arange(case.seqlen_k) <= rows).double()
    mean = torch.einsum("qk,bkhd->bhqd", seen / seen.sum(dim=1, keepdim=True), reference.inputs.v.double())
    torch.testing.assert_close(reference.oracle.out, mean.repeat_interleave(2, dim=1), rtol=1e-9, atol=1e-9)
    outputs.out[1, 60, 3] += 0.05
    assert "output off the mean of v" in failed(reference, outputs)


def test_nan_in_v_must_reach_the_rows_that_see_it_and_no_other_head():
    case = make(inputs="nan_v")
    reference, outputs = answered(case)
    key, head = case.seqlen_k // 2, case.num_heads_kv // 2
    assert bool(reference.inputs.v[0, key, head].isnan().all())
    first = key - (case.seqlen_k - case.seqlen_q)
    assert bool(outputs.out[0, first:, 2:].isnan().all())
    hidden = replace(outputs, out=outputs.out.nan_to_num(nan=0.0))
    assert failed(reference, hidden) == {"rows that see a NaN of v and hide it"}
    spread = outputs.out.clone()
    spread[1, 5, 0] = float("nan")
    assert failed(reference, replace(outputs, out=spread)) == {"non-finite outputs"}


def test_a_bias_is_seen_below_what_rounding_hides():
    """An output low by 2^-10 of itself, a quarter of bf16's rounding: no other rule can see that."""
    reference, outputs = answered(make(inputs="same_sign_v", seqlen_q=256, seqlen_k=256))
    low = (reference.oracle.out * (1 - 2.0**-10)).bfloat16().transpose(1, 2).contiguous()
    assert failed(reference, replace(outputs, out=low)) == {"mean signed error with v of one sign"}


@pytest.mark.parametrize(("seqlen_k", "head_dim"), [(262144, 64), (131072, 256)])
def test_steps_over_long_contexts_stay_in_fp16(seqlen_k, head_dim):
    case = Case.make(
        batch=1, seqlen_q=1, seqlen_k=seqlen_k, num_heads=1, head_dim=head_dim, dtype="fp16", inputs="steps"
    )
    assert bool(make_inputs(case).k.isfinite().all())


@pytest.mark.parametrize("bug", [DecodingGroupReversed, ThirdElementReadsSecond], ids=lambda bug: bug.__name__)
def test_edges_decode_grouped_heads_and_hold_a_third_batch_element(bug):
    with pytest.raises(AssertionError, match="cases of suite edges failed"):
        attnbench.check(bug(), only={"group": "decode", "dtype": "bf16", "seqlen_k": 129})


def test_checks_of_a_probe_carry_its_name_and_only_what_matters():
    passed = [Check("a", 0.1, 1.0, True), Check("b", 0.9, 1.0, True)]
    assert [str(check) for check in kept("needle", passed)] == ["needle: b 0.9, limit 1"]
    assert [check.rule for check in kept("needle", [*passed, Check("c", 2, 1, False)])] == ["needle: c"]
    assert kept("needle", []) == []


def test_suites_take_probes_by_name_or_all():
    text = "groups: [{name: a, axes: {batch: 1, seqlen: 8, num_heads: 1, head_dim: 8}}]\nchecks: {probes: %s}\n"
    assert parse_suite(text % "all", "x.yaml").jobs()[0].checks.probes == ("all",)
    assert parse_suite(text % "[needle, padded]", "x.yaml").jobs()[0].checks.probes == ("needle", "padded")
    with pytest.raises(SuiteError, match='unknown probe "nedle" under "probes" .did you mean "needle"'):
        parse_suite(text % "[nedle]", "x.yaml")


@pytest.mark.parametrize("scaling", ["none", "tensor", "head", "token", "block"])
def test_halves_of_the_keys_keep_their_descales(scaling):
    """The oracle on both, merged, is the oracle on the whole: exact but for fp64's rounding."""
    case = make(dtype="e4m3", causal=False, scaling=scaling, block_size=32)
    inputs = make_inputs(case)
    parts = halves(case, inputs)
    assert [part.seqlen_k for part, _ in parts] == ([32, 65] if scaling == "block" else [48, 49])
    rows = choose_rows(case, "full", "cpu")
    whole, *halved = (oracle(c, i, rows) for c, i in ((case, inputs), *parts))
    out, lse = weighted([(part.out, part.lse) for part in halved])
    torch.testing.assert_close(out, whole.out, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(lse, whole.lse, rtol=1e-9, atol=1e-12)


def test_halves_that_are_right_and_do_not_add_up_are_found():
    """Each half within what its own lse may be off by is within the whole's limits; a half that is far off is told."""
    for backend, rule in ((LseOfFewKeysInLog2(), "lse_merged: LSE error"), (FORWARD, None)):
        problem = Problem(
            make(causal=False, seqlen_k=161), "cpu", Checks(probes=("lse_merged",)), Timing(), 0, Phases()
        )
        record = run_trial(problem, backend, timed=False)
        assert ({check.rule for check in record.accuracy.failures} == {rule}) if rule else record.status == "ok"
        assert rule is None or "likely cause: the lse is in log2" in record.reason
    assert PROBES["lse_merged"].cannot(make(causal=True)) is not None
    assert PROBES["lse_merged"].cannot(make(causal=False, seqlen_k=1)) is not None


@pytest.mark.parametrize(
    ("bug", "probe"),
    [(OutputIsAccumulator, "v_trend"), (PartsNotNormalized, "large_sums"), (LseOfFewKeysInLog2, "lse_merged")],
)
def test_one_probe_alone_finds_what_no_other_input_shows(bug, probe):
    case = Case.make(**{**runner.SHORT, "dtype": "fp16", "causal": probe != "lse_merged"})
    problem = Problem(case, "cpu", Checks(), Timing(), 0, Phases())
    caught = dict(runner.caught_by(problem, bug(), tuple(PROBES)))
    assert [name for name, rule in caught.items() if rule] == [probe]


def test_quick_leaves_out_what_edges_poses():
    (job,) = [job for job in load_suite("quick").jobs() if job.group == "probes" and job.case.dtype == "bf16"]
    assert set(PROBES) - set(job.checks.probes) == {"v_trend", "large_sums", "lse_merged", "batch_invariant"}


class _Raises(TiledForward):
    def prepare(self, case, inputs):
        if not inputs.q.is_contiguous():
            raise ValueError("q must be contiguous")
        return super().prepare(case, inputs)


def test_a_refusal_of_a_layout_is_clean_and_recorded():
    problem = Problem(make(), "cpu", Checks(probes=("strided", "padded")), Timing(), 0, Phases())
    record = run_trial(problem, _Raises(), timed=False)
    assert record.status == "ok"
    assert "strided: refused: q must be contiguous" in {check.rule for check in record.accuracy.checks}


class _OneScale(TiledForward):
    def prepare(self, case, inputs):
        if case.scale != case.head_dim**-0.5:
            raise NotImplementedError("only the default softmax_scale")
        return super().prepare(case, inputs)


@pytest.mark.parametrize(("backend", "rule"), [
    (_OneScale(), "half_scale: refused: only the default softmax_scale"),
    (ScaleSquaredWhereGiven(), "half_scale: max error"),
], ids=["refuses", "squares"])  # fmt: skip
def test_another_softmax_scale_is_taken_or_refused(backend, rule):
    problem = Problem(make(), "cpu", Checks(probes=("half_scale",)), Timing(), 0, Phases())
    record = run_trial(problem, backend, timed=False)
    assert rule in {check.rule for check in record.accuracy.checks}
    assert record.status == ("ok" if "refused" in rule else "incorrect")


class _ReadsPast(TiledForward):
    """Reads one row of k after the last, as far as its memory goes."""

    def operands(self, case, inputs):
        q, k, v = super().operands(case, inputs)
        stored = inputs.k.untyped_storage().nbytes() // 2
        if stored > inputs.k.numel():
            beyond = inputs.k.as_strided((1,), (1,), inputs.k.storage_offset() + inputs.k.numel())
            k = k + 0 * beyond.float()
        return q, k, v


def test_nan_beside_the_tensors_shows_who_reads_it():
    problem = Problem(make(), "cpu", Checks(probes=("guarded",)), Timing(), 0, Phases())
    record = run_trial(problem, _ReadsPast(), timed=False)
    assert record.status == "incorrect"
    assert "guarded: non-finite outputs" in record.reason
