"""Kernels of several makers side by side: what is compared, and what the document says where nothing could be had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from attnbench.errors import UserError
from attnbench.machine_code.comparison import MakersKernels, PlainForward, comparison
from attnbench.machine_code.kernel import LoopFacts, MachineKernel
from attnbench.machine_code.names import Name
from attnbench.machine_code.only import Only
from attnbench.machine_code.pipes import Pipes
from attnbench.machine_code.report import print_kernels

PLAIN = LoopFacts(
    masked=False, keys=128, instructions=434.4, common_path=377.5, tensor={"64x128x16": 16},
    pipes=Pipes(2048, 755, 1047, 442, 276), exponentials=66, in_flight=60, exposed=54.0, chain=1559.0,
    conditional_rescale=True, spills=0, limit="tensor cores",
)  # fmt: skip
MASKED = replace(PLAIN, masked=True, instructions=533.0, limit="ALU")
KERNEL = MachineKernel(
    symbol="fwd_overlap_bf16_d128", name="fwd_overlap_bf16_d128", short="fwd_overlap_bf16_d128",
    arguments={"dtype": "bf16", "head_dim": 128, "causal": False, "schedule": "overlap"}, file="ours.so",
    arch="sm_90a", compiler="ptxas 13.0.88", registers=168, shared_bytes=1024, threads=384, warpgroups=2,
    instructions=3000, tensor_instructions=57, spills=7, loops=(MASKED, PLAIN),
)  # fmt: skip
PEER = replace(
    KERNEL, symbol="_ZPeer", name="FlashAttnFwdSm90<>", short="FlashAttnFwdSm90",
    file="peer-1.2-cp39-abi3-linux.whl:a.so",
    arguments={"dtype": "bf16", "head_dim": 128, "causal": False, "varlen": False, "tile_m": 128, "tile_n": 176},
    compiler="", loops=(replace(PLAIN, conditional_rescale=False, in_flight=10, exposed=260.0),),
)  # fmt: skip


def test_the_document_holds_like_against_like():
    causal = replace(KERNEL, arguments={**KERNEL.arguments, "causal": True})
    text = comparison(
        [
            MakersKernels("ours", "this checkout", "built here", (KERNEL, causal)),
            MakersKernels("peer", "1.2", "pip download --no-deps", (PEER, PEER)),
            MakersKernels("absent", "-", "not had", ()),
        ],
        "make comparison",
    )
    sections = [line for line in text.splitlines() if line.startswith("## bf16")]
    assert sections == ["## bf16, head_dim 128, not causal", "## bf16, head_dim 128, causal"]
    table = text.split("## bf16, head_dim 128, not causal")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    head, shown = rows[0], [dict(zip(rows[0], row)) for row in rows[2:]]
    assert [(row["whose"], row["loop"]) for row in shown] == [
        ("ours overlap", "plain"), ("ours overlap", "masked"), ("peer", "plain"),
    ]  # fmt: skip
    assert (shown[0]["path"], shown[0]["exposed/T"], shown[0]["most/T"], shown[0]["EX2"]) == (
        "378", "0.05", "0.51", "60/66",
    )  # fmt: skip
    assert (shown[2]["exposed/T"], shown[2]["rescales"]) == ("0.25", "always") and "limited by" in head
    assert "| absent  | -             | not had" in text and "not run" in text
    assert "TFLOPS" not in text


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"causal": True, "head_dim": 128, "dtype": "bf16"}, True),
        ({"causal": True, "head_dim": 96}, False),
        ({"causal": True, "head_dim": 64, "head_dim_v": 512}, False),
        ({"causal": True, "head_dim": 64, "varlen": True}, False),
        ({"causal": True, "head_dim": 64, "cluster": 2}, False),
        ({"causal": True, "head_dim": 64, "direction": "bwd"}, False),
        ({"causal": True, "head_dim": 64, "schedule": "pingpong"}, False),
        ({"head_dim": 64}, False),
    ],
)
def test_what_is_a_plain_forward(said, kept):
    assert PlainForward(("overlap",)).may_keep(Name("k", "k", said)) == kept


def test_a_plain_forward_may_be_asked_for_by_name():
    said = {"causal": True, "head_dim": 64}
    assert PlainForward(called="FlashAttn").may_keep(Name("full", "FlashAttnFwdSm90", said))
    assert not PlainForward(called="FlashAttn").may_keep(Name("full", "gemm", said))


def test_what_a_maker_has_only_with_something_beside_may_be_kept():
    said = {"causal": True, "head_dim": 64, "varlen": True, "packed_gqa": True}
    assert PlainForward(besides=("varlen", "packed_gqa")).may_keep(Name("k", "k", said))
    assert not PlainForward(besides=("varlen",)).may_keep(Name("k", "k", said))
    assert not PlainForward(besides=("varlen", "packed_gqa")).may_keep(Name("k", "k", {**said, "paged": True}))


def test_a_source_without_such_kernels_is_a_line():
    with pytest.raises(UserError, match="no plain forward kernel"):
        PlainForward().refuse_nothing([replace(KERNEL, loops=())])


def test_what_a_name_does_not_speak_of_it_has_not():
    assert Only.parse(["varlen=false"]).keeps(KERNEL) and Only.parse(["varlen=false"]).keeps(PEER)
    assert not Only.parse(["varlen=true"]).keeps(KERNEL)
    assert not Only.parse(["tile_m=128"]).keeps(KERNEL) and Only.parse(["tile_m=64,128"]).keeps(PEER)
    assert Only.parse(["name=Fwd", "causal=false"]).keeps(PEER) and not Only.parse(["name=Bwd"]).keeps(PEER)


def test_several_files_stand_in_one_table_by_problem():
    console = Console(width=220, record=True, force_terminal=False)
    other = replace(KERNEL, arguments={**KERNEL.arguments, "head_dim": 64}, file="other.so")
    print_kernels([KERNEL, other, PEER], console)
    text = console.export_text()
    assert "3 files (sm_90a; ptxas 13.0.88)" in text
    places = [text.index(name) for name in ("other.so", "ours.so", "peer-1.2", "FlashAttnFwdSm90 bf16 d128")]
    assert places == sorted(places)
    assert "2 x (16·64x128x16)" in text and "where needed" in text
