"""What bf16's rounding hides is found by its pattern, and named; right kernels and declared ones are not accused."""

import pytest
import torch

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.correctness.patterns.shares import LIMIT, RULES, SHARE, patterns
from attnbench.records.record import MAX_ERROR
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.selftest.bugs.softmax import ScoresIn16Bit, SmallWeightsDropped, SumsIn16Bit, TileSumsIn16Bit
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.selftest.runner import RIGHT, SHARP, SHARP_LONG
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

PLANTED = (
    (ScoresIn16Bit, "scores", "precision: scores rounded to 16 bits (bf16"),
    (TileSumsIn16Bit, "sums", "accumulation: P V is summed in bf16 over tiles of 64 keys (the first visited first)"),
    (SmallWeightsDropped, "weights", "weights: those below "),
)


def trial(backend, **fields):
    problem = Problem(Case.make(**fields), "cpu", Checks(repeats=0), Timing(), 0, Phases())
    return run_trial(problem, backend, timed=False)


@pytest.mark.parametrize(("bug", "kind", "cause"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_each_is_found_on_ordinary_inputs_and_named(bug, kind, cause):
    """All other rules pass, but for the largest error's in some draws."""
    record = trial(bug(), **SHARP)
    assert record.status == "incorrect"
    failed = {check.rule for check in record.accuracy.failures}
    assert RULES[kind] in failed and failed <= {RULES[kind], MAX_ERROR}, record.reason
    assert f"likely cause: {cause}" in record.reason


def failures(backend, **fields):
    case = Case.make(**fields)
    ref = make_reference(case, make_inputs(case))
    return {check.rule for check in judge(ref, backend, backend.prepare(case, ref.inputs)()).failures}


def test_so_they_are_among_4096_keys():
    for bug, kind, _ in PLANTED:
        failed = failures(bug(), **SHARP_LONG)
        assert RULES[kind] in failed and failed <= {RULES[kind], MAX_ERROR}, (bug, failed)
    assert failures(TiledForward(), **SHARP_LONG) == set()


class ExponentsIn16Bit(TiledForward):
    """What exp takes, a score less the running maximum, is rounded."""

    def weights(self, state, number, scores, maximum):
        return (scores - maximum).bfloat16().float().exp()


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        (ExponentsIn16Bit(), "scores"),
        (TileSumsIn16Bit(Choices(tile_n=112, backwards=True)), "sums"),
        (TileSumsIn16Bit(Choices(p_fp32=True, normalize_first=True)), "sums"),
        (SumsIn16Bit(Choices(tile_n=128)), "sums"),
        (SmallWeightsDropped(Choices(tile_n=32, backwards=True)), "weights"),
    ],
    ids=["exponents", "tiles of 112 backwards", "of weights in fp32", "kept", "dropped backwards"],
)
def test_their_relatives_are_found_too(backend, kind):
    assert RULES[kind] in failures(backend, **SHARP)


class ScaledQuery(TiledForward):
    """q is rounded again once the scale is in it: noise of the scores, and none of these mistakes."""

    def operands(self, case, inputs):
        q, k, v = super().operands(case, inputs)
        return (q * case.scale).bfloat16().float() / case.scale, k, v


class ScoresOfScaledQuery(ScaledQuery, ScoresIn16Bit):
    pass


@pytest.mark.parametrize(("backend", "accused"), [(ScaledQuery(), set()), (ScoresOfScaledQuery(), {RULES["scores"]})])
def test_another_rounding_is_not_taken_for_one_of_these(backend, accused):
    failed = failures(backend, **{**SHARP, "head_dim": 128})
    assert failed & set(RULES.values()) == accused, failed


def worst(case, backends, draws):
    """{backend: most standard errors} over some draws."""
    found = dict.fromkeys((name for name, _ in backends), 0.0)
    for draw in range(draws):
        ref = make_reference(case, make_inputs(case, "cpu", draw))
        for name, backend in backends:
            outputs = backend.prepare(case, ref.inputs)()
            out = outputs.out.transpose(1, 2).double()
            sigmas = [one.sigmas for one in patterns(ref, backend, out, ref.oracle.out)]
            found[name] = max(found[name], *sigmas) if sigmas else found[name]
    return found


def test_right_kernels_stay_far_below_the_limit():
    case = Case.make(**{**SHARP, "seqlen_q": 256})
    right = [(str(choices), TiledForward(choices)) for choices in RIGHT]
    library = [(name, builtin()[name]) for name in ("naive", "cpu_flash")]
    found = worst(case, right + library, 2)
    assert max(found.values()) < LIMIT - 2, found


@pytest.mark.parametrize(
    ("declared", "left_out"),
    [({"scores_16bit": True}, {"scores"}), ({"scores_int8": True}, {"scores"}), ({"accumulator": "hopper"}, set()),
     ({"approximate": True}, set(RULES))], ids=["scores_16bit", "scores_int8", "accumulator", "approximate"],
)  # fmt: skip
def test_what_is_declared_is_not_held_against_a_kernel(declared, left_out):
    """How 8-bit products are summed says nothing of a bf16 case."""
    backend = type("Declared", (TileSumsIn16Bit,), declared)()
    case = Case.make(**SHARP)
    ref = make_reference(case, make_inputs(case))
    checks = judge(ref, backend, backend.prepare(case, ref.inputs)()).checks
    asked = {kind for kind, rule in RULES.items() if rule in {check.rule for check in checks}}
    assert asked == set(RULES) - left_out
    assert (RULES["sums"] in {check.rule for check in checks if not check.passed}) == ("sums" in asked)


@pytest.mark.parametrize(
    "fields",
    [{"dtype": "fp16"}, {"dtype": "fp32"}, {"dtype": "e4m3"}, {"inputs": "outliers"}, {"seqlen_k": 256},
     {"seqlen_q": 16}, {"dtype": "fp32", "kv_dtype": "bf16"}],
    ids=str,
)  # fmt: skip
def test_it_is_asked_only_where_rounding_is_what_it_takes_it_for(fields):
    """Of few keys, or few rows, or other types, there is no such check, rather than one that means nothing."""
    case = Case.make(**{**SHARP, "seqlen_q": 128, **fields})
    ref = make_reference(case, make_inputs(case))
    outputs = TiledForward().prepare(case, ref.inputs)()
    assert not {check.rule for check in judge(ref, TiledForward(), outputs).checks} & set(RULES.values())


def test_the_share_is_the_part_of_the_mistake_that_is_made():
    """Half of the rows with the mistake: about half of the predicted error."""
    case = Case.make(**SHARP)
    ref = make_reference(case, make_inputs(case))
    outputs = ScoresIn16Bit().prepare(case, ref.inputs)().out
    right = TiledForward().prepare(case, ref.inputs)().out
    mixed = torch.where((torch.arange(case.seqlen_q) % 2 == 0)[None, :, None, None], outputs, right)
    shares = {}
    for name, out in (("all", outputs), ("half", mixed), ("none", right)):
        found = patterns(ref, ScoresIn16Bit(), out.transpose(1, 2).double(), ref.oracle.out)
        shares[name] = next(one.share for one in found if one.kind == "scores")
    assert 0.9 < shares["all"] < 1.1 and 0.35 < shares["half"] < 0.65 and abs(shares["none"]) < SHARE
