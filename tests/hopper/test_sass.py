"""Reading machine code: recorded lines, and control flow written out by hand."""

from __future__ import annotations

import re

import pytest

from attnbench.hopper.build import ptxas_facts
from attnbench.hopper.sass import SassFacts, sass_facts
from attnbench.machine_code.instructions import parse_sass

# As cuobjdump 13.2 prints it.
RECORDED = """
	code for sm_90a
		Function : some_kernel
	.headerflags	@"EF_CUDA_ACCELERATORS EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                                   /* 0x00000a00ff017b82 */
                                                                                            /* 0x000fe20000000800 */
        /*0010*/              @!P0 BRA 0x50 ;                                               /* 0x0000000000641947 */
                                                                                            /* 0x000fea0003800000 */
        /*0020*/                   WARPGROUP.ARRIVE ;                                       /* 0x00000000000079c5 */
        /*0030*/                   HGMMA.64x128x16.F32 R24, R180, gdesc[UR16].tnspB, R24, gsb0 ;  /* 0x41e0 */
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;                          /* 0x00008000000079c5 */
        /*0050*/               @P0 EXIT ;                                                   /* 0x000000000000794d */
		Function : _ZN9attnbench7forwardEv
        /*0000*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xf0 ;                 /* 0x000000f0000079c8 */
        /*0010*/                   USETMAXREG.DEALLOC.CTAPOOL 0x18 ;                        /* 0x00000018000079c8 */
        /*0020*/                   UTMALDG.4D [UR16], [UR28] ;                              /* 0x0000001c100075b4 */
        /*0030*/                   UTMASTG.4D [UR8], [UR16] ;                               /* 0x00000010080073b5 */
        /*0040*/                   UTMAREDG.1D.ADD [UR8], [UR16] ;                          /* 0x00000010080073b6 */
        /*0050*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR16], R24, gsb0 ;  /* 0x01e0 */
        /*0060*/                   EXIT ;                                                   /* 0x000000000000794d */
"""


def facts_of(code: str) -> SassFacts:
    """Facts of a function written with labels (`name:`), as the listing that cuobjdump would print of it."""
    lines = [line.strip() for line in code.strip().splitlines()]
    labels, body = {}, []
    for line in lines:
        if line.endswith(":"):
            labels[line[:-1]] = 16 * len(body)
        else:
            body.append(line)
    text = "\t\tFunction : kernel\n"
    for index, line in enumerate(body):
        placed = re.sub(r"->(\w+)", lambda match: f"{labels[match.group(1)]:#x}", line)
        text += f"        /*{16 * index:04x}*/                   {placed} ;    /* 0x0 */\n"
    (instructions,) = parse_sass(text).values()
    assert len(instructions) == len(body)
    return sass_facts(instructions)


def test_recorded_lines():
    functions = parse_sass(RECORDED)
    assert list(functions) == ["some_kernel", "_ZN9attnbench7forwardEv"]
    first = functions["some_kernel"]
    assert [instruction.address for instruction in first] == [0, 16, 32, 48, 64, 80]
    assert (first[1].predicate, first[1].opcode, first[1].operands) == ("!P0", "BRA", "0x50")
    assert first[3].is_tensor and first[3].commits
    assert first[4].groups_left == 1 and first[3].groups_left is None
    facts = sass_facts(functions["_ZN9attnbench7forwardEv"])
    assert (facts.utmaldg, facts.utmastg, facts.utmaredg, facts.qgmma, facts.hgmma) == (1, 1, 1, 1, 0)
    assert (facts.setmaxnreg_alloc, facts.setmaxnreg_dealloc) == (1, 1)
    assert (facts.registers_alloc, facts.registers_dealloc) == (0xF0, 0x18)
    assert facts.loops == () and facts.steady_loop is None and facts.ex2_in_flight_share is None


QK = "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0"
PV = "HGMMA.64x64x16.F32 R56, R88, gdesc[UR8].tnspB, R56, gsb0"
WAIT0 = "WARPGROUP.DEPBAR.LE gsb0, 0x0"
WAIT1 = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
EX2 = "MUFU.EX2 R1, R1"


def test_overlapped_loop():
    facts = facts_of(f"""
        MOV R1, R1
        top:
        WARPGROUP.ARRIVE
        {QK}
        WARPGROUP.ARRIVE
        {PV}
        {WAIT1}
        FFMA R1, R1, R2, R3
        {EX2}
        {EX2}
        {WAIT0}
        R2UR UR4, R5
        @P0 BRA ->top
        EXIT
    """)
    (loop,) = facts.loops
    assert (loop.instructions, loop.tensor, loop.arrive, loop.waits) == (11, 2, 2, 2)
    assert (loop.ex2, loop.ex2_in_flight, loop.ex2_before_last_wait) == (2, 2, 2)
    assert (loop.ffma, loop.r2ur, loop.spills) == (1, 1, 0)


def test_a_hoisted_wait_leaves_exponentials_without_tensor_work():
    facts = facts_of(f"""
        top:
        {QK}
        {PV}
        {WAIT1}
        {EX2}
        {WAIT0}
        {EX2}
        {EX2}
        {EX2}
        @P0 BRA ->top
        EXIT
    """)
    assert facts.ex2_in_flight_share == 0.25
    assert facts.ex2_before_last_wait_share == 0.25


def test_one_product_after_the_other_overlaps_nothing():
    """All exponentials stand before the last wait, yet no tensor work runs under any."""
    facts = facts_of(f"""
        top:
        {QK}
        {WAIT0}
        {EX2}
        {PV}
        {WAIT0}
        @P0 BRA ->top
        EXIT
    """)
    assert facts.ex2_before_last_wait_share == 1.0
    assert facts.ex2_in_flight_share == 0.0


def test_a_rotated_loop_counts_from_its_first_wgmma():
    facts = facts_of(f"""
        {QK}
        {PV}
        {WAIT1}
        top:
        {EX2}
        {WAIT0}
        {QK}
        {PV}
        {WAIT1}
        @P0 BRA ->top
        EXIT
    """)
    assert facts.ex2_before_last_wait_share == 1.0
    assert facts.ex2_in_flight_share == 1.0


def test_in_flight_holds_on_every_path():
    """A branch that waits makes what follows both paths not surely in flight."""
    facts = facts_of(f"""
        top:
        {QK}
        @P1 BRA ->skip
        {WAIT0}
        skip:
        {EX2}
        {WAIT0}
        @P0 BRA ->top
        EXIT
    """)
    assert (facts.loops[0].ex2, facts.loops[0].ex2_in_flight) == (1, 0)


def test_an_open_group_is_in_flight():
    facts = facts_of(f"""
        top:
        HGMMA.64x64x16.F32 R24, gdesc[UR4], R24
        {EX2}
        {QK}
        {WAIT0}
        @P0 BRA ->top
        EXIT
    """)
    assert facts.loops[0].ex2_in_flight == 1


def test_blocks_out_of_line_belong_to_their_loop():
    """ptxas puts spin waits behind the code; their branch back is no loop of its own around the tensor work."""
    facts = facts_of(f"""
        top:
        SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R0
        @!P0 BRA ->spin
        go:
        {QK}
        {EX2}
        {WAIT0}
        @P1 BRA ->top
        EXIT
        spin:
        SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R0
        @!P0 BRA ->spin
        BRA ->go
    """)
    (loop,) = facts.loops
    assert loop.instructions == 9
    assert loop.tensor == 1


def test_the_main_loop_is_the_innermost():
    """A persistent kernel's loop over tiles holds the masked and the unmasked loop over keys."""
    facts = facts_of(f"""
        tile:
        {QK}
        {WAIT0}
        {EX2}
        masked:
        {QK}
        FSEL R1, R1, R2, P0
        {WAIT0}
        @P0 BRA ->masked
        steady:
        {QK}
        {WAIT0}
        @P0 BRA ->steady
        {PV}
        {WAIT0}
        @P1 BRA ->tile
        EXIT
    """)
    assert sorted(loop.instructions for loop in facts.loops) == [3, 4]
    assert facts.steady_loop.instructions == 3
    assert facts.hgmma == 4 and facts.ex2 == 1


@pytest.mark.parametrize("place", ["before", "loop", "after"])
def test_spills_count_where_they_cost(place):
    spill = {name: "LDL R1, [R1+0x4]" if name == place else "NOP" for name in ("before", "loop", "after")}
    facts = facts_of(f"""
        {spill["before"]}
        top:
        {QK}
        {WAIT0}
        {spill["loop"]}
        @P0 BRA ->top
        {spill["after"]}
        EXIT
    """)
    assert facts.main_spills == (place == "loop")
    assert facts.loops[0].spills == (place == "loop")


def test_spills_between_two_loops_count():
    facts = facts_of(f"""
        first:
        {QK}
        @P0 BRA ->first
        STL [R1+0x4], R1
        second:
        {QK}
        @P0 BRA ->second
        EXIT
    """)
    assert facts.main_spills == 1
    assert [loop.spills for loop in facts.loops] == [0, 0]


def test_conditional_branches_without_a_predicate_fall_through():
    facts = facts_of(f"""
        top:
        {QK}
        retry:
        BRA.U.ANY ->retry
        {EX2}
        BRA P2, ->top
        EXIT
    """)
    assert facts.loops[0].ex2 == 1


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fwd_b' for 'sm_90a'
ptxas info    : Function properties for fwd_b
    264 bytes stack frame, 480 bytes spill stores, 484 bytes spill loads
ptxas info    : Used 128 registers, used 9 barriers, 264 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compile time = 72.639 ms
ptxas info    : Function properties for _ZN6helperEv
    0 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function 'fwd_a' for 'sm_90a'
ptxas info    : Function properties for fwd_a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 0 barriers
"""


def test_ptxas_output():
    facts = ptxas_facts(PTXAS)
    assert list(facts) == ["fwd_b", "fwd_a"]
    assert facts["fwd_b"].registers == 128 and facts["fwd_b"].static_shared_bytes == 2048
    assert (facts["fwd_b"].spill_store_bytes, facts["fwd_b"].spill_load_bytes) == (480, 484)
    assert facts["fwd_a"].registers == 168 and facts["fwd_a"].static_shared_bytes == 0
    assert (facts["fwd_a"].spill_store_bytes, facts["fwd_a"].spill_load_bytes) == (0, 0)
