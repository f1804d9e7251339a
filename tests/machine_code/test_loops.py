"""Main loops, their common path, and the products, pipes and chain of a pass: code written by hand, known values."""

from __future__ import annotations

import itertools

import pytest
from code_by_hand import written

from attnbench.machine_code.chain import LATENCY, chain_clocks
from attnbench.machine_code.flow import FlowGraph
from attnbench.machine_code.loops import main_loops
from attnbench.machine_code.pipes import Pipes, limit_in_words, pipes_of, tensor_clocks
from attnbench.machine_code.products import MULTIPLIES, product_of, step_of

QK = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT"
QK_ON = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0"
PV = "HGMMA.64x32x16.F32.BF16 R88, R104, gdesc[UR8].tnspB, R88"
PV_LAST = f"{PV}, gsb0"
WAIT0 = "WARPGROUP.DEPBAR.LE gsb0, 0x0"
WAIT1 = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
EX2 = "MUFU.EX2 R1, R1"

# A pass in FlashAttention-3's form: a barrier that may be retried, a masked part and a rescaling that may be left out.
FORWARD = f"""
    MOV R2, R3
    top:
    SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R7
    @!P0 BRA ->retry
    ready:
    WARPGROUP.ARRIVE
    {QK}
    {QK_ON}
    {chr(10).join([PV] * 7)}
    {PV_LAST}
    {WAIT1}
    FMNMX R5, R24, R25, !PT
    FFMA R5, R24, R6, R7
    {EX2}
    {EX2}
    @P1 BRA ->kept
    FMUL R88, R88, R9
    FMUL R89, R89, R9
    kept:
    {WAIT0}
    F2FP.BF16.F32.PACK_AB R104, R5, R6
    @P2 BRA ->top
    EXIT
    retry:
    SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R7
    @!P0 BRA ->retry
    BRA ->ready
"""


def test_the_common_path_leaves_out_retries_and_what_is_conditional():
    (loop,) = main_loops(written(FORWARD))
    assert len(loop.body) == 27 and len(loop.path) == 22
    left_out = sorted(one.name for one in loop.body if one not in loop.path)
    assert left_out == ["BRA", "BRA", "FMUL", "FMUL", "SYNCS"]
    assert [one.name for one in loop.path].count("HGMMA") == 10


def test_what_is_in_flight_along_the_path():
    (loop,) = main_loops(written(FORWARD))
    under_tensor_work = [one.opcode for one, in_flight in zip(loop.path, loop.in_flight) if in_flight]
    assert under_tensor_work.count("MUFU.EX2") == 2
    # Exposed: the barrier and its branch, ARRIVE and the first product; and what follows the wait for all groups.
    assert [one.name for one, in_flight in zip(loop.path, loop.in_flight) if not in_flight] == [
        "SYNCS", "BRA", "WARPGROUP", "HGMMA", "F2FP", "BRA",
    ]  # fmt: skip


def test_products_of_a_pass():
    (loop,) = main_loops(written(FORWARD))
    step = step_of(loop.path)
    assert (step.score_columns, step.head_dim, step.outputs) == (128, 32, frozenset({88}))


def test_pipes_of_a_pass():
    (loop,) = main_loops(written(FORWARD))
    assert pipes_of(loop.path, "sm_90a") == Pipes(tensor=2 * 64 + 8 * 16, issue=22, mufu=16, alu=4, fp32=1)


def test_the_path_is_the_best_of_all_ways_round():
    """Brute force: every way through a body with diamonds, some of which multiply."""
    code = f"""
        top:
        {QK}
        @P0 BRA ->b
        IADD3 R1, R1, R2, RZ
        IADD3 R1, R1, R2, RZ
        BRA ->c
        b:
        {PV}
        c:
        @P1 BRA ->d
        FADD R1, R1, R2
        BRA ->e
        d:
        FADD R1, R1, R2
        FADD R1, R1, R2
        FADD R1, R1, R2
        e:
        @P2 BRA ->f
        {PV}
        {PV}
        f:
        @P3 BRA ->top
        EXIT
    """
    instructions = written(code)
    (loop,) = main_loops(instructions)
    graph = FlowGraph.of(instructions)
    ways = []

    def walk(block: int, way: tuple[int, ...]) -> None:
        for target in graph.successors[block]:
            if target == 0:
                ways.append(way)
            elif target not in way:
                walk(target, (*way, target))

    walk(0, (0,))
    bodies = [list(itertools.chain(*(graph.blocks[block] for block in way))) for way in ways]
    products = [sum(one.name in MULTIPLIES for one in body) for body in bodies]
    shortest = min(len(body) for body, count in zip(bodies, products) if count == max(products))
    assert len(ways) == 8
    assert (sum(one.name in MULTIPLIES for one in loop.path), len(loop.path)) == (max(products), shortest)
    assert list(loop.path) in bodies


def test_only_the_innermost_loop_counts_and_each_by_itself():
    loops = main_loops(
        written(f"""
        tile:
        MOV R1, R2
        steady:
        {QK}
        @P0 BRA ->steady
        masked:
        {QK}
        FSEL R24, R24, -INF, P3
        @P1 BRA ->masked
        @P2 BRA ->tile
        EXIT
    """)
    )
    assert [len(loop.body) for loop in loops] == [2, 3]


def test_code_without_products_has_no_main_loop():
    assert main_loops(written(f"top:\n{EX2}\n@P0 BRA ->top\nEXIT")) == ()


@pytest.mark.parametrize(
    ("text", "columns", "depth", "starts", "rows_in_registers", "dtype", "clocks"),
    [
        (QK, 128, 16, True, False, "bf16", 64),
        (PV, 32, 16, False, True, "bf16", 16),
        ("HGMMA.64x256x16.F32 R24, gdesc[UR8], R24", 256, 16, False, False, "fp16", 128),
        ("QGMMA.64x224x32.F32.E4M3.E4M3 R24, gdesc[UR8], RZ, !UPT, gsb0", 224, 32, True, False, "e4m3", 112),
        ("HGMMA.64x64x8.F32.TF32 R24, gdesc[UR8], R24", 64, 8, False, False, "tf32", 32),
        # 16 x 8 x 16 of each of four warps: 8192 multiply-adds, of which a multiprocessor of sm_90 does 2048 a clock.
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", 8, 16, False, True, "bf16", 4),
        ("HMMA.16816.F32 R4, R8, R12, RZ", 8, 16, True, True, "fp16", 4),
        ("HMMA.1688.F32 R4, R8, R12, RZ", 8, 8, True, True, "fp16", 2),
    ],
)
def test_one_product(text, columns, depth, starts, rows_in_registers, dtype, clocks):
    (instruction,) = written(text)
    product = product_of(instruction)
    assert (product.columns, product.depth, product.starts, product.rows_in_registers, product.dtype) == (
        columns, depth, starts, rows_in_registers, dtype,
    )  # fmt: skip
    assert tensor_clocks(product, "sm_90a") == clocks
    # An A100's multiprocessor does half as many a clock.
    assert tensor_clocks(product, "sm_80") == 2 * clocks


def test_weights_times_v_into_a_second_accumulator():
    """Two levels of accumulation: every chain overwrites; the one that reads its rows from registers is p v."""
    weighted = "QGMMA.64x128x32.F32.E4M3.E4M3 R152, R24, gdesc[UR8], {}"
    path = written(
        "QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR8], RZ, !UPT\n"
        + "QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24, gsb0\n" * 3
        + weighted.format("RZ, !UPT\n")
        + weighted.format("R152, gsb0\n")
    )
    step = step_of(path)
    assert (step.score_columns, step.head_dim, step.outputs) == (64, 128, frozenset())


def test_two_blocks_of_rows_and_outputs_in_parts():
    score = "HGMMA.64x64x16.F32 R{0}, gdesc[UR8], RZ, !UPT\nHGMMA.64x64x16.F32 R{0}, gdesc[UR8], R{0}\n"
    output = "HGMMA.64x16x16.F32 R{0}, R20, gdesc[UR8], R{0}\n"
    blocks = written(score.format(24) + score.format(56) + output.format(100) * 4 + output.format(108) * 4)
    assert (step_of(blocks).score_columns, step_of(blocks).head_dim) == (128, 32)
    parts = written(score.format(24) + output.format(100) * 4 + output.format(108) * 4)
    assert (step_of(parts).score_columns, step_of(parts).head_dim) == (64, 32)


def test_products_that_do_not_fit_have_no_keys():
    path = written(
        "HGMMA.64x64x16.F32 R24, gdesc[UR8], RZ, !UPT\n" + "HGMMA.64x16x16.F32 R100, R20, gdesc[UR8], R100\n" * 7
    )
    assert step_of(path).score_columns == 0


def test_half_rate_and_integer_arithmetic():
    path = written("""
        F2FP.BF16.F32.PACK_AB R1, R2, R3
        ISETP.GE.AND P0, PT, R1, R2, PT
        IMAD.MOV.U32 R1, RZ, RZ, R2
        FFMA R1, R1, R2, R3
        BAR.SYNC 0x1
    """)
    assert pipes_of(path, "sm_90a") == Pipes(tensor=0, issue=5, mufu=0, alu=4, fp32=3)
    # 64 lanes for 32-bit arithmetic on an A100.
    assert pipes_of(path, "sm_80").fp32 == 4


def test_the_limit_in_words():
    pipes = Pipes(tensor=1000, issue=400, mufu=960, alu=900, fp32=0)
    assert limit_in_words(pipes, 500) == "tensor cores, MUFU"
    assert limit_in_words(pipes, 2000) == "one warpgroup's chain"


def test_chain_of_stall_counts():
    path = written("FADD R1, R1, R2 | stall=4\nFADD R1, R1, R2 | stall=4\nBRA 0x0 | stall=5")
    assert chain_clocks(path, "sm_90a") == 13


def test_chain_waits_for_what_a_scoreboard_announces():
    path = written("SHFL.BFLY PT, R1, R2, 0x1, 0x1f | stall=1 sets=2\nFADD R1, R1, R2 | stall=4 waits=2")
    assert chain_clocks(path, "sm_90a") == LATENCY + 4


def test_special_functions_follow_each_other_at_the_pace_of_their_pipe():
    assert chain_clocks(written(f"{EX2}\n" * 10), "sm_90a") == 80
    between = written(f"{EX2}\nFADD R1, R1, R2\nFADD R1, R1, R2\n" * 10)
    assert chain_clocks(between, "sm_90a") == 80


def test_half_rate_arithmetic_takes_two_clocks_each():
    assert chain_clocks(written("FMNMX R1, R2, R3, !PT\n" * 10), "sm_90a") == 20


def test_tensor_work_runs_under_what_follows_until_it_is_awaited():
    """128 clocks of products: a serial pass takes them and its 20 exponentials one after the other, one that waits
    behind the exponentials takes the longer of the two."""
    products = f"{QK}\n{QK_ON}\n"
    serial = chain_clocks(written(products + f"{WAIT0}\n" + f"{EX2}\n" * 20), "sm_90a")
    overlapped = chain_clocks(written(products + f"{EX2}\n" * 20 + f"{WAIT0}\n"), "sm_90a")
    # The last exponential holds its pipe for 7 clocks more, of which the next pass's products know nothing.
    assert 128 + 19 * 8 < serial <= 128 + 19 * 8 + 4
    assert 20 * 8 <= overlapped <= 20 * 8 + 4


def test_waiting_for_all_but_the_last_group():
    """The first group of 64 clocks is awaited, the second goes on under the exponentials."""
    one = f"{QK}, gsb0\n"
    took = chain_clocks(written(one + one + f"{WAIT1}\n" + f"{EX2}\n" * 4 + f"{WAIT0}\n"), "sm_90a")
    assert 128 <= took <= 128 + 4
