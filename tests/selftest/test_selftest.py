"""The selftest itself: its short form passes, and it fails where a bug escapes or a right kernel is accused."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from attnbench.backend import Outputs
from attnbench.case import DTYPES, Case
from attnbench.cli.verbs import main
from attnbench.correctness.broadcast import expanded
from attnbench.correctness.relations import in_layouts
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows
from attnbench.selftest import runner
from attnbench.selftest.bugs import BUGS
from attnbench.selftest.bugs.masks import MaskSeesOneMore
from attnbench.selftest.bugs.outputs import NanSwallowed
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.selftest.runner import RIGHT, BugUnit, RightUnit

# Every bug of the method's list has a class; adding one there means adding it here.
LISTED = 70


def test_short_form_catches_every_bug_and_accuses_nobody():
    done = subprocess.run(
        [sys.executable, "-m", "attnbench", "selftest", "--short"], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 escaped" in done.stdout
    assert " 0 accused" in done.stdout


def test_every_bug_is_planted_in_all_dtypes_it_applies_to():
    assert len({bug.__name__ for bug in BUGS}) == len(BUGS) == LISTED
    narrower = {bug.__name__: bug.dtypes for bug in BUGS if bug.dtypes != DTYPES}
    fp8 = ("e4m3", "e5m2")
    assert narrower == {
        "DescalesSwapped": fp8, "KDescaleOfNextHead": fp8, "AccumulationTruncated": fp8,
        "PSaturated": ("e4m3",), "ScoresIn16Bit": ("fp16", "bf16"), "ScoresOfIntegers": ("fp16", "bf16"),
        "SumsIn16Bit": ("fp16", "bf16"), "OutputIsAccumulator": ("fp16", "bf16"),
        "PartsNotNormalized": ("fp16",), "ThroughFp16": ("bf16",), "WeightsTruncated": ("bf16",),
        "OutputTruncated": ("bf16",), "TileSumsIn16Bit": ("bf16",), "SmallWeightsDropped": ("bf16",),
    }  # fmt: skip


@pytest.mark.parametrize("short", [True, False])
def test_every_bug_meets_a_problem_in_every_dtype(short):
    wanted = {(bug().name, dtype) for bug in BUGS for dtype in bug.dtypes if not short or dtype in ("bf16", "e4m3")}
    met = set()
    for unit in runner.units(short):
        if isinstance(unit, BugUnit):
            case = Case.make(**unit.case)
            takes = {bug().name for bug in BUGS if bug().unsupported(case) is None}
            met |= {(name, case.dtype) for name in takes if name in (unit.bugs or (name,))}
    assert met == wanted


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("choices", RIGHT, ids=str)
def test_variants_are_right_forwards(choices, dtype):
    """Against the oracle, not the judge: a judge that passes everything must not vouch for them."""
    case = Case.make(batch=2, seqlen=150, num_heads=4, num_heads_kv=2, head_dim=32, dtype=dtype, causal=True)
    inputs = make_inputs(case)
    outputs = TiledForward(choices).prepare(case, inputs)()
    exact = oracle(case, inputs, choose_rows(case, "full", "cpu"))
    unit = 2.0**-11 if dtype == "fp16" else 2.0**-8
    unit = 2.0**-5 if choices.int8_scores else unit  # scores are off by about a hundredth each
    torch.testing.assert_close(outputs.out.transpose(1, 2).double(), exact.out, rtol=2 * unit, atol=2 * unit)
    # A sum of rounded weights and a cubic exp2 reach the lse; the others' row sums are exact.
    lse_tolerance = unit if choices.sum_rounded or choices.int8_scores else 1e-4 if choices.cubic_exp2 else 1e-5
    torch.testing.assert_close(outputs.lse.double(), exact.lse, rtol=1e-5, atol=lse_tolerance)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_planted_bugs_change_the_answer(bug):
    """Where it applies, a bug's result differs from the right one, in some call: or nothing was planted."""
    case = _case_of(bug)
    inputs = _placed(bug, case, make_inputs(case))
    right = TiledForward(Choices()).prepare(case, inputs)()
    planted = bug()
    assert planted.unsupported(case) is None
    torch.manual_seed(0)
    before = inputs.k.clone()
    call = planted.prepare(case, inputs)
    answers = [_copy(call()) for _ in range(8)]
    if bug.__name__ == "CachedAnswer":
        others = make_inputs(case, input_set=1)
        right, answers = TiledForward(Choices()).prepare(case, others)(), [_copy(planted.prepare(case, others)())]
    same = all(_equal(right, answer) for answer in answers) and torch.equal(before, inputs.k)
    assert not same


def _placed(bug, case, inputs):
    """In the order in memory in which the bug shows."""
    if bug.__name__ == "StridesOfEachOther":
        return in_layouts(case, inputs).inputs
    if bug.__name__ == "StrideOfZeroMisread":
        return expanded(case, inputs, 2, case.num_heads_kv)
    return inputs


def _case_of(bug):
    dtype = "bf16" if "bf16" in bug.dtypes else bug.dtypes[0]
    inputs = {
        "NanSwallowed": "nan_v", "PSaturated": "steps", "SmallTilesSkipped": "sink", "ExponentClamped": "needle",
        "MaximumStartsAtZero": "equal_logits", "NanOfQSwallowed": "nan_q", "NanOfKSwallowed": "nan_k",
        "MaximumStartsFinite": "low_logits",
    }  # fmt: skip
    full = {"causal": False}
    fields = {
        "TailUnmasked": full, "CausalAlways": full, "TopLeftAlways": full,
        "MaskShortWithMoreQueries": {"seqlen_q": 170}, "RowsWithoutKeys": {"seqlen_q": 170},
        "ScaleSquaredWhereGiven": {"softmax_scale": 0.3}, "ThroughFp16": {"inputs": "fp8_descales"},
        "LseOfFewKeysInLog2": {"causal": False, "seqlen_k": 100},
        "DecodingGroupReversed": {"seqlen_q": 1}, "KeysAtStrideOfQueries": {"batch": 2},
        "ThirdElementReadsSecond": {"batch": 3}, "TileSumsIn16Bit": {"seqlen_k": 1024},
        "SmallWeightsDropped": {"seqlen_k": 1024},
    }  # fmt: skip
    shape = {"batch": 1, "seqlen_q": 100, "seqlen_k": 161, "num_heads": 4, "num_heads_kv": 2, "head_dim": 32}
    return Case.make(**{**shape, "dtype": dtype, "causal": True, "inputs": inputs.get(bug.__name__, "normal"),
                        **fields.get(bug.__name__, {})})  # fmt: skip


def _copy(outputs):
    return Outputs(outputs.out.clone(), outputs.lse.clone())


def _equal(a, b):
    """Bit for bit, so that NaN equals NaN."""
    return a.out.dtype == b.out.dtype and a.out.shape == b.out.shape and all(
        torch.equal(x.nan_to_num(nan=7e4), y.nan_to_num(nan=7e4)) for x, y in ((a.out, b.out), (a.lse, b.lse))
    )  # fmt: skip


SMALL = {"batch": 1, "seqlen_q": 70, "seqlen_k": 70, "num_heads": 2, "head_dim": 32, "dtype": "bf16", "causal": True}


def test_a_right_kernel_among_the_bugs_escapes(monkeypatch):
    """The matrix can say that nothing was found: a "bug" that is none must come out as an escape."""

    class NoBug(MaskSeesOneMore):
        shift = 0

    monkeypatch.setattr(runner, "BUGS", (NoBug,))
    unit = BugUnit(SMALL)
    findings = runner.Findings(judged=1)
    runner._take(findings, unit, unit.run())
    assert findings.escaped == [("bf16", "no bug", "seqlen 70 x 70, causal")]
    assert findings.exit_status == 1


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        (runner.Findings(escaped=[("bf16", "mask sees one more", "seqlen 9 x 9, causal")], judged=5, attempts=7),
         "ESCAPED: mask sees one more, bf16, seqlen 9 x 9, causal"),
        (runner.Findings(accused=["bf16-d64  tile_n 64  max error 2"], judged=5), "ACCUSED: bf16-d64  tile_n 64"),
    ],
    ids=["a bug escapes", "a right kernel is accused"],
)  # fmt: skip
def test_the_command_says_so_and_exits_with_1(monkeypatch, findings, said):
    monkeypatch.setattr(runner, "_collect", lambda work, watch: findings)
    done = CliRunner().invoke(main, ["selftest", "--short"])
    assert done.exit_code == 1
    assert said in done.output and "exit status 1" in done.output


def test_a_wrong_kernel_among_the_right_ones_is_accused(monkeypatch):
    monkeypatch.setattr(runner, "TiledForward", lambda choices: MaskSeesOneMore())
    judged, accused = RightUnit((SMALL,)).run()
    assert judged == len(RIGHT)
    assert len(accused) == judged
    assert dataclasses.replace(runner.Findings(), judged=judged, accused=accused).exit_status == 1


def test_nothing_judged_is_no_success():
    assert runner.Findings().exit_status == 1


def test_swallowed_nan_is_caught_by_its_own_probes_only():
    """The reason why those probes exist."""
    unit = BugUnit(SMALL, bugs=(NanSwallowed().name,))
    columns = unit.run()[NanSwallowed().name]
    assert [column for column, rule in columns.items() if rule] == ["nan_v", "nan_q", "nan_k"]
