"""A planted bug is not only caught but named: the likely cause and the map must point at what was planted."""

from dataclasses import replace

import pytest
import torch

from attnbench.case import Case
from attnbench.correctness.judge import diagnosed
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.selftest.bugs.masks import (
    CausalAlways,
    DescalesSwapped,
    KeysCountedAsQueries,
    LastTileDropped,
    MaskSeesOneLess,
    MaskSeesOneMore,
    MaskTopLeft,
    MaskTurnedRound,
    TailUnmasked,
    TopLeftAlways,
    WrongGqaHead,
)
from attnbench.selftest.bugs.outputs import (
    AllZeros,
    ColumnsNeverStored,
    HalfOfHeadDim,
    LseInLog2,
    LseMixesBases,
    LseOfFewKeysInLog2,
    LseSign,
    NanSwallowed,
    Nondeterministic,
    RowNeverWritten,
    RowZeroed,
)
from attnbench.selftest.bugs.softmax import (
    ColumnsNotRescaled,
    FirstTileHidden,
    OutputIsAccumulator,
    OutputTruncated,
    PartsNotNormalized,
    RowsWithoutKeys,
    ScaleFivePercentHigh,
    ScaleMissing,
    ScoresIn16Bit,
    ScoresOfIntegers,
    SumsIn16Bit,
    ThroughFp16,
)
from attnbench.selftest.forward import Choices
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

CAUSES = {
    MaskSeesOneMore: "mask: each query sees one key too many",
    MaskSeesOneLess: "mask: each query sees one key too few",
    MaskTopLeft: "mask: causal is aligned top left",
    MaskTurnedRound: "mask: it is turned round",
    CausalAlways: "mask: it is causal, and should not be",
    TopLeftAlways: "mask: it is causal, aligned top left, and should not be",
    LastTileDropped: "tail: the last tile of 64 or 128 keys (from key 128) is left out",
    TailUnmasked: "the last tile of 32, 64, 96 or 192 keys is not masked, 31 keys past the end count as zeros",
    ScaleFivePercentHigh: "the softmax scale is 1.05 times what it should be",
    ScaleMissing: "the softmax scale is missing",
    WrongGqaHead: "query heads take key/value heads in turn",
    RowZeroed: "rows that are 0: batch 1, head 3, row 85",
    FirstTileHidden: "rows whose first tile of keys is hidden altogether are not finite (760): -inf minus -inf; tiles "
    "of 64 or 128 keys, the last visited first",
    ColumnsNeverStored: "columns 32 to 63 of the output's 64 are not finite in any row: never written",
    HalfOfHeadDim: "columns 32 to 63 of the output's 64 are 0 in every row; scores: only the first 32 of 64 dimensions "
    "of q and k count",
    ColumnsNotRescaled: "only columns 48 to 63 are wrong",
    RowNeverWritten: "rows that are not finite: 2 rows, the first at batch 0, head 3, row 85",
    ScoresOfIntegers: "precision of the scores: q and k are rounded to 8-bit integers, scaled in blocks of 64 rows, "
    "the mean of all keys subtracted before",
    LseMixesBases: "the output is right, and only the lse is wrong",
    AllZeros: "the output is 0",
    NanSwallowed: "NaN in v is hidden",
    LseInLog2: "the lse is in log2",
    LseSign: "the lse is negative",
    DescalesSwapped: "descales of k and v are swapped",
}


# Bugs of the branch without a mask.
FULL = (TailUnmasked, CausalAlways, TopLeftAlways)


def trial(bug, dtype, probes=(), **fields):
    torch.manual_seed(0)  # Nondeterministic takes its order from it
    shape = {"batch": 2, "seqlen_q": 128, "seqlen_k": 161, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}
    case = Case.make(**{**shape, "dtype": dtype, "causal": bug not in FULL,
                        "inputs": "nan_v" if bug is NanSwallowed else "normal", **fields})  # fmt: skip
    return run_trial(Problem(case, "cpu", Checks(probes=probes), Timing(), 0, Phases()), bug(), timed=False)


@pytest.mark.parametrize("dtype", ["bf16", "e4m3", pytest.param("e5m2", marks=pytest.mark.full)])
@pytest.mark.parametrize("bug", CAUSES, ids=lambda bug: bug.__name__)
def test_the_cause_is_named(bug, dtype):
    if dtype not in bug.dtypes:
        pytest.skip(f"the bug is one of {bug.dtypes}")
    record = trial(bug, dtype)
    assert record.status == "incorrect"
    assert CAUSES[bug] in record.reason


TOP_LEFT = "mask: causal is aligned top left, not bottom right"
COUNTED = "keys: their number is taken from q, "


@pytest.mark.parametrize(
    ("seqlen_q", "seqlen_k", "causal", "cause"),
    [
        (100, 161, False, COUNTED + "only the first 100 are read"),
        (161, 128, False, COUNTED + "33 keys past the end count as zeros"),
        (161, 128, True, COUNTED + "33 keys past the end count as zeros"),
        (100, 161, True, f"{TOP_LEFT}, or {COUNTED}only the first 100 are read"),
        (128, 161, False, "tail: the last tile of 64 or 128 keys (from key 128) is left out, "
         f"or {COUNTED}only the first 128 are read"),
    ],
)  # fmt: skip
def test_a_number_of_keys_that_is_that_of_q_is_named_beside_what_comes_to_the_same(seqlen_q, seqlen_k, causal, cause):
    record = trial(KeysCountedAsQueries, "bf16", seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal)
    assert record.reason.split("\n")[0].endswith(f"likely cause: {cause}")


class _CountedAndUnmasked(KeysCountedAsQueries):
    """Nor is the last tile of these keys masked."""

    def scores(self, case, q, k, start, stop):
        return torch.nn.functional.pad(super().scores(case, q, k, start, stop), (0, self.choices.tile_n - stop + start))

    def add_values(self, out, p, v):
        return super().add_values(out, p[..., : v.shape[2]], v)


def test_two_mistakes_of_one_kernel_are_named_together():
    record = trial(_CountedAndUnmasked, "bf16", seqlen_q=100, causal=False)
    words = "only the first 100 are read, in tiles of 32, 64 or 128, and 28 past them count as zeros"
    assert COUNTED + words in record.reason


def test_more_queries_than_keys_hide_no_mask_that_is_off_by_one():
    """The first rows see no key either way."""
    record = trial(MaskSeesOneMore, "bf16", seqlen_q=161, seqlen_k=128)
    assert "mask: each query sees one key too many" in record.reason


def test_rows_that_see_no_key_and_come_out_as_nan_are_told_from_rows_whose_first_tile_is_hidden():
    more_queries = {"seqlen_q": 161, "seqlen_k": 128}
    words = "rows that see no key are not finite (264): -inf minus -inf, 0 / 0, or never written"
    assert words in trial(RowsWithoutKeys, "bf16", **more_queries).reason
    words = "hidden altogether are not finite (776): -inf minus -inf; tiles of 64 keys, the last visited first"
    assert words in trial(FirstTileHidden, "bf16", **more_queries).reason


@pytest.mark.parametrize(("bug", "dtype", "fields", "cause"), [
    (OutputIsAccumulator, "bf16", {"probes": ("v_trend",), "causal": False},
     "accumulation: the mean of v so far is kept in bf16 from tile to tile of 64 keys"),
    (OutputIsAccumulator, "bf16", {"probes": ("v_trend",)},
     "bias: the output is 0.00066 of itself too small on average; digits are cut off, or what is added is lost in a "),
    (OutputTruncated, "bf16", {"probes": ("v_trend",), "causal": False}, "too small on average; digits are cut off"),
    (PartsNotNormalized, "fp16", {"probes": ("large_sums",)},
     "or overflow: of sums over keys before they are divided, if kept in fp16, which ends at 65504"),
    (ThroughFp16, "bf16", {"probes": ("fp8_descales",)},
     "range: bf16 goes through fp16, which has no digits left below 6e-5"),
    (LseOfFewKeysInLog2, "bf16", {"probes": ("lse_merged",), "causal": False}, "the lse is in log2"),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_what_a_probe_alone_shows_is_named_too(bug, dtype, fields, cause):
    record = trial(bug, dtype, **fields)
    assert record.status == "incorrect" and cause in record.reason


def test_bf16_that_passes_the_end_of_fp16_is_named():
    case = Case.make(batch=1, seqlen=70, num_heads=2, head_dim=32, dtype="bf16")
    inputs = make_inputs(case)
    reference = make_reference(case, replace(inputs, v=inputs.v * 2.0**17))
    outputs = ThroughFp16().prepare(case, reference.inputs)()
    assert "overflow: bf16 that goes through fp16 ends at 65504" in diagnosed(reference, ThroughFp16(), outputs).cause


class _SmoothTail(ScoresOfIntegers):
    """Beside zeros that count, whose score is one of keys without their mean."""

    def integers(self, q, k):
        return self.in_blocks(q, 128), self.in_blocks(k - k.mean(dim=1, keepdim=True), 64)

    def scores(self, case, q, k, start, stop):
        return torch.nn.functional.pad(super().scores(case, q, k, start, stop), (0, self.choices.tile_n - stop + start))

    def add_values(self, out, p, v):
        return super().add_values(out, p[..., : v.shape[2]], v)


@pytest.mark.parametrize(("seqlen", "tiles", "past"), [(1, "64", 63), (65, "64 or 128", 63)])
def test_zeros_past_the_end_of_keys_without_their_mean_do_not_count_as_another_tile(seqlen, tiles, past):
    record = trial(_SmoothTail, "fp16", seqlen_q=seqlen, seqlen_k=seqlen, causal=False)
    words = f"tail: the last tile of {tiles} keys is not masked, {past} keys past the end count as zeros, the mean"
    assert words in record.reason


class _UnevenBlocks(ScoresOfIntegers):
    """Scaled as no hypothesis says; gives_lse: as a kernel that returns it."""

    gives_lse = True

    def in_blocks(self, x, rows):
        return super().in_blocks(x, 48)

    def finish(self, case, inputs, out, lse):
        outputs = super().finish(case, inputs, out, lse)
        return outputs if self.gives_lse else replace(outputs, lse=None)


class _UnevenBlocksAlone(_UnevenBlocks):
    gives_lse = False


class _WeightsIn5Bits(_UnevenBlocks):
    def integers(self, q, k):
        return q, k

    def rounded(self, case, p):
        mantissa, exponent = torch.frexp(p)
        return torch.ldexp((mantissa * 32).round() / 32, exponent)


@pytest.mark.parametrize(("bug", "cause"), [
    (_UnevenBlocks, "precision of the scores, which the lse shows as well: even noise in all rows"),
    (_UnevenBlocksAlone, "precision of the scores, of the weights or of the sums: even noise in all rows"),
    (_WeightsIn5Bits, "precision of the weights or of the sums, not of the scores, since the lse is right"),
    (ScoresIn16Bit, "precision: scores rounded to 16 bits (bf16)"),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_noise_that_is_as_large_in_every_row_is_a_matter_of_precision(bug, cause):
    record = trial(bug, "bf16", seqlen_k=1024, causal=False)
    assert record.status == "incorrect" and cause in record.reason


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_sums_in_the_inputs_type_are_an_accumulators(dtype):
    record = trial(SumsIn16Bit, dtype, seqlen_k=1024, causal=False)
    assert f"accumulation: the sum is kept in {dtype} from tile to tile of 64 keys" in record.reason


def test_sums_that_grow_with_the_keys_are_an_accumulators_whatever_its_tiles():
    record = trial(_SumsOfOddTiles, "bf16", batch=1, seqlen_q=2048, seqlen_k=2048, num_heads=1, num_heads_kv=1)
    assert "accumulation: the error grows with the number of keys (to the power " in record.reason


class _SumsOfOddTiles(SumsIn16Bit):
    def __init__(self):
        super().__init__(Choices(tile_n=24))


def test_the_map_shows_the_head_and_the_tile():
    lines = trial(RowZeroed, "bf16").accuracy.error_map
    assert len(lines) == 1 + 2 * 4
    marks = [line.removeprefix(line[:18]) for line in lines[1:]]
    assert [mark.strip() for mark in marks[:-1]] == [".."] * 7
    assert marks[-1].strip()[0] == "." and marks[-1].strip()[1].isdigit()


def test_a_right_result_has_no_map():
    from attnbench.selftest.forward import TiledForward

    record = run_trial(
        Problem(Case.make(batch=1, seqlen=70, num_heads=2, head_dim=32), "cpu", Checks(), Timing(), 0, Phases()),
        TiledForward(), timed=False,
    )  # fmt: skip
    assert record.status == "ok" and record.accuracy.error_map == ()


def test_the_first_difference_is_named_with_both_values():
    record = trial(Nondeterministic, "bf16")
    assert record.status == "incorrect"
    assert "repeats that differ bitwise" in record.reason
    assert "out, batch 0, row " in record.reason and " in all" in record.reason
