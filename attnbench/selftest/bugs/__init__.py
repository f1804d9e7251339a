"""Bugs that attention kernels have shipped with, or that the tolerances in use were shown to let through.

Each is planted into the right forward of `planted_forward` by overriding the one method that it lives in. Its docstring
says what goes wrong; `unsupported` says where the bug cannot show.
"""

from __future__ import annotations

from attnbench.selftest.bugs.masks import (
    CausalAlways,
    DescalesSwapped,
    KDescaleOfNextHead,
    KeysAtStrideOfQueries,
    KeysCountedAsQueries,
    LastTileDropped,
    MaskSeesOneLess,
    MaskSeesOneMore,
    MaskShortWithMoreQueries,
    MaskTopLeft,
    MaskTurnedRound,
    SmallTilesSkipped,
    TailOfGroupsShifted,
    TailUnmasked,
    ThirdElementReadsSecond,
    TileOfOneKeySkipped,
    TopLeftAlways,
    VTileTransposed,
    WrongGqaHead,
)
from attnbench.selftest.bugs.outputs import (
    AllZeros,
    CachedAnswer,
    ColumnsNeverStored,
    DecodingGroupReversed,
    HalfOfHeadDim,
    LseInLog2,
    LseMixesBases,
    LseOfFewKeysInLog2,
    LseRowsSwapped,
    LseSign,
    NanSwallowed,
    NobodyWaits,
    Nondeterministic,
    OneInAThousandOff,
    RaceInOneOfAThousand,
    RightOnlyOnce,
    RowNeverWritten,
    RowZeroed,
    SplitsByBatch,
    WritesItsInput,
    WrongDtype,
    WrongShape,
)
from attnbench.selftest.bugs.places import (
    MaximumStartsFinite,
    NanOfKSwallowed,
    NanOfQSwallowed,
    StrideOfZeroMisread,
    StridesOfEachOther,
)
from attnbench.selftest.bugs.softmax import (
    AccumulationTruncated,
    ColumnsNotRescaled,
    ExponentClamped,
    FirstTileHidden,
    MaximumStartsAtZero,
    OutputIsAccumulator,
    OutputTruncated,
    PartsNotNormalized,
    PSaturated,
    RescaleMissing,
    RescaleSkippedWhereSmall,
    RowSumMissesLastTile,
    RowsWithoutKeys,
    ScaleFivePercentHigh,
    ScaleMissing,
    ScaleSquaredWhereGiven,
    ScoresIn16Bit,
    ScoresOfIntegers,
    SmallWeightsDropped,
    StaleMaximum,
    SumsIn16Bit,
    ThroughFp16,
    TileSumsIn16Bit,
    WeightsTruncated,
)
from attnbench.selftest.forward import Planted

BUGS: tuple[type[Planted], ...] = (
    MaskSeesOneMore, MaskSeesOneLess, MaskTurnedRound, MaskTopLeft, CausalAlways, TopLeftAlways,
    MaskShortWithMoreQueries, TileOfOneKeySkipped, KeysCountedAsQueries, LastTileDropped, TailUnmasked,
    TailOfGroupsShifted, SmallTilesSkipped, StaleMaximum, RescaleMissing, RescaleSkippedWhereSmall,
    ColumnsNotRescaled, RowSumMissesLastTile, MaximumStartsAtZero, ExponentClamped, FirstTileHidden,
    RowsWithoutKeys, ScaleFivePercentHigh, ScaleMissing, ScaleSquaredWhereGiven, ThroughFp16, ScoresIn16Bit,
    ScoresOfIntegers, SumsIn16Bit, TileSumsIn16Bit, SmallWeightsDropped, OutputIsAccumulator, PartsNotNormalized,
    WeightsTruncated, OutputTruncated,
    WrongGqaHead, KeysAtStrideOfQueries, ThirdElementReadsSecond, DecodingGroupReversed, VTileTransposed, RowZeroed,
    RowNeverWritten, ColumnsNeverStored, HalfOfHeadDim, AllZeros, OneInAThousandOff, NanSwallowed, LseInLog2,
    LseMixesBases, LseOfFewKeysInLog2, LseSign, LseRowsSwapped, DescalesSwapped, KDescaleOfNextHead, PSaturated,
    AccumulationTruncated, WrongDtype, WrongShape, WritesItsInput, CachedAnswer, NobodyWaits, RightOnlyOnce,
    Nondeterministic, RaceInOneOfAThousand, SplitsByBatch, StridesOfEachOther, StrideOfZeroMisread, NanOfQSwallowed,
    NanOfKSwallowed, MaximumStartsFinite,
)  # fmt: skip
