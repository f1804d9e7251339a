"""The limits and the record of static figures, on figures made up to break them one at a time."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from attnbench.cli.kernels import inspect_built, inspection_json, print_changes, print_inspection
from attnbench.hopper.build import PtxasFacts
from attnbench.hopper.inspect import LIMITS, KernelFacts, record_facts, violations
from attnbench.hopper.library import Variant
from attnbench.hopper.recorded import NotComparable, compare_recorded, read_recorded, recorded_figures, update_recorded
from attnbench.hopper.sass import LoopCounts, SassFacts

# head_dim 128, tile 128x128, two warpgroups: 8 + 8 wgmma, 64 scores a thread.
VARIANT = Variant(
    0, "overlap", "fwd_overlap_bf16_d128", "bf16", 128, False, 128, 128, 2, 384, 2, 200_000,
    ("overlap", "warp_specialized", "persistent"), "fp32",
)  # fmt: skip
LOOP = LoopCounts(470, 16, 2, 2, 66, 66, 66, 66, 0, 0)
MASKED = LoopCounts(640, 16, 2, 2, 66, 66, 66, 66, 0, 0)
SASS = SassFacts(2700, 48, 0, 6, 30, 2, 0, 1, 1, 196, 0, (MASKED, LOOP), registers_alloc=240, registers_dealloc=24)
GOOD = KernelFacts("fwd_overlap", "nvcc 13.5.37", "d1g3st", VARIANT, PtxasFacts(168, 0, 0, 1024), (), SASS)


def with_loop(**changes) -> KernelFacts:
    return replace(GOOD, sass=replace(SASS, loops=(MASKED, replace(LOOP, **changes))))


def with_sass(**changes) -> KernelFacts:
    return replace(GOOD, sass=replace(SASS, **changes))


BROKEN = {
    "registers at entry": (replace(GOOD, ptxas=PtxasFacts(176, 0, 0, 0)), "is 176, at most 168"),
    "shared memory bytes": (replace(GOOD, ptxas=PtxasFacts(168, 0, 0, 40_000)), "is 240000, at most 232448"),
    "C75xx lines": (replace(GOOD, serialization=("(C7510) ...",)), "is 1, at most 0"),
    "main loops": (with_sass(loops=()), "is 0, at least 1"),
    "LDL/STL in the main loop or between wgmma": (with_sass(main_spills=3), "is 3, at most 0"),
    "WARPGROUP.ARRIVE per wgmma": (with_sass(arrive=48), "is 1, at most 0.5"),
    "steps in a pass of the main loop": (with_loop(tensor=8, ex2=33, ffma=33), "is 0.5, at least 1"),
    "part of a step in the main loop": (with_loop(tensor=24, ex2=99, ffma=99, instructions=600), "is 0.5, at most 0"),
    "EX2 in the main loop": (with_loop(ex2=63, ex2_in_flight=63, ex2_before_last_wait=63), "is 63, at least 64"),
    "FFMA in the main loop": (with_loop(ffma=2), "is 2, at least 64"),
    "R2UR in the main loop": (with_loop(r2ur=14), "is 14, at most 0"),
    "instructions of the main loop": (with_loop(instructions=497), "is 497, at most 496"),
    "UTMALDG": (with_sass(utmaldg=0), "is 0, at least 3"),
    "setmaxnreg alloc": (with_sass(setmaxnreg_alloc=0), "is 0, at least 1"),
    "setmaxnreg dealloc": (with_sass(setmaxnreg_dealloc=0), "is 0, at least 1"),
    "registers after setmaxnreg": (with_sass(registers_dealloc=40), "is 66560, at most 64512"),
    "share of EX2 before the last wait": (with_loop(ex2_before_last_wait=0), "is 0.5, at least 1"),
    "share of EX2 with wgmma in flight": (with_loop(ex2_in_flight=0), "is 0.5, at least 1"),
}


def test_the_good_one_breaks_nothing():
    assert violations([GOOD]) == []


# head_dim 128 of the quantize kernel: no wgmma, two CTAs on a multiprocessor.
QUANTIZER = replace(
    GOOD, library="quantize", ptxas=PtxasFacts(128, 0, 0, 0), sass=replace(SASS, hgmma=0, loops=()),
    variant=replace(VARIANT, schedule="write", causal=None, threads=256, consumer_warpgroups=0, flags=("persistent",),
                    shared_memory_bytes=83_000),
)  # fmt: skip
BROKEN_QUANTIZER = {
    "registers with 512 threads together": (replace(QUANTIZER, ptxas=PtxasFacts(136, 0, 0, 0)), "is 136, at most 128"),
    "shared memory with 512 threads together": (
        replace(QUANTIZER, ptxas=PtxasFacts(128, 0, 0, 40_000)), "is 248048, at most 233472"
    ),
    "bytes spilled": (replace(QUANTIZER, ptxas=PtxasFacts(128, 8, 16, 0)), "is 24, at most 0"),
}  # fmt: skip


def test_every_limit_has_a_case_that_breaks_it():
    assert {*BROKEN, *BROKEN_QUANTIZER} == {limit.name for limit in LIMITS}


@pytest.mark.parametrize("name", BROKEN_QUANTIZER)
def test_each_limit_of_the_quantize_kernel(name):
    facts, words = BROKEN_QUANTIZER[name]
    assert violations([QUANTIZER]) == []
    (found,) = violations([facts])
    assert found.limit == name and words in str(found)
    assert str(found).startswith("quantize/write-bf16-d128-any: ")


@pytest.mark.parametrize("name", BROKEN)
def test_each_limit(name):
    facts, words = BROKEN[name]
    found = [violation for violation in violations([GOOD, facts]) if violation.limit == name]
    assert len(found) == 1
    assert words in str(found[0])
    assert str(found[0]).startswith("fwd_overlap/overlap-bf16-d128-full: ")


def test_too_many_exponentials():
    facts = with_loop(ex2=130, ex2_in_flight=130, ex2_before_last_wait=130)
    assert [(violation.value, violation.bound) for violation in violations([facts])] == [(130, 66)]


@pytest.mark.parametrize(("ex2", "broken"), [(58, []), (64, ["EX2 in the main loop"]), (50, ["EX2 in the main loop"])])
def test_polynomials_take_a_share_of_the_exponentials(ex2, broken):
    """Not none, and no more than issue slots allow."""
    counts = dict.fromkeys(("ex2", "ex2_in_flight", "ex2_before_last_wait"), ex2)
    facts = replace(with_loop(**counts), variant=replace(VARIANT, flags=(*VARIANT.flags, "polynomial")))
    assert [violation.limit for violation in violations([facts])] == broken


def test_an_unrolled_loop_is_judged_by_the_step():
    twice = {"instructions": 940, "tensor": 32, "ffma": 132}
    twice |= dict.fromkeys(("ex2", "ex2_in_flight", "ex2_before_last_wait"), 132)
    assert violations([replace(GOOD, sass=replace(SASS, loops=(replace(LOOP, **twice),)))]) == []


def test_overlap_is_demanded_of_those_that_claim_it():
    plain = replace(GOOD, variant=replace(VARIANT, flags=()))
    idle = replace(LOOP, ex2_in_flight=0, instructions=600)
    assert violations([replace(plain, sass=replace(SASS, loops=(idle,), setmaxnreg_alloc=0))]) == []


def test_without_a_disassembler_only_the_rest_is_judged():
    blind = replace(GOOD, sass=None)
    assert violations([blind]) == []
    assert [violation.limit for violation in violations([replace(blind, ptxas=PtxasFacts(176, 0, 0, 0))])] == [
        "registers at entry"
    ]


def printed(facts) -> tuple[str, int]:
    console = Console(width=150, record=True, file=io.StringIO())
    broken = print_inspection(facts, console)
    return console.export_text(), broken


def test_table():
    text, broken = printed([GOOD])
    assert broken == 0
    assert "fwd_overlap (nvcc 13.5.37)" in text and "All limits hold for 1 variants." in text
    row = next(line for line in text.splitlines() if "overlap-bf16-d128-full" in line)
    assert row.split() == [
        "overlap-bf16-d128-full",
        "168",
        "0/0",
        "196.3",
        "0",
        "48",
        "6",
        "30/2/0",
        "1/1",
        "100%",
        "100%",
        "470",
        "66",
        "66",
        "0",
        "0",
    ]


def test_table_without_a_disassembler_shows_no_zero():
    text, broken = printed([replace(GOOD, sass=None)])
    row = next(line for line in text.splitlines() if "overlap-bf16-d128-full" in line)
    assert row.split() == ["overlap-bf16-d128-full", "168", "0/0", "196.3", "0", *["-"] * 11]
    assert "-: not read, there is no disassembler: pip install nvidia-cuda-cuobjdump" in text
    assert "All limits that need no disassembler hold" in text and broken == 0


def test_table_names_what_is_broken():
    text, broken = printed([BROKEN["R2UR in the main loop"][0]])
    assert broken == 1
    assert "R2UR in the main loop is 14, at most 0 (descriptors must be uniform over the warp)" in text
    assert "hold for" not in text
    assert "No kernel is built" in printed([])[0]


def test_json():
    good, bad, blind = json.loads(inspection_json([GOOD, BROKEN["UTMALDG"][0], replace(GOOD, sass=None)]))
    assert good["key"] == "fwd_overlap/overlap-bf16-d128-full" and good["violations"] == []
    assert good["figures"]["loop_ex2"] == 66 and len(good["sass"]["loops"]) == 2
    assert len(bad["violations"]) == 1
    assert blind["sass"] is None and "hgmma" not in blind["figures"]


def test_record_figures_are_flat_and_plain():
    row = record_facts(GOOD)
    assert row["registers"] == 168 and row["shared_bytes"] == 201_024 and row["ex2_in_flight_share"] == 1.0
    assert all(isinstance(value, (int, float, str)) for value in row.values())


@pytest.fixture
def path(tmp_path):
    """A place for the record, beside the kernel files that it speaks of."""
    for name in ("fwd_overlap", "fwd_ws"):
        (tmp_path / f"{name}.cu").touch()
    return tmp_path / "static.json"


def test_recorded_figures_round_trip(path):
    update_recorded([GOOD], path)
    assert compare_recorded([GOOD], read_recorded(path)) == []
    assert read_recorded(path)["variants"]["fwd_overlap/overlap-bf16-d128-full"] == recorded_figures(GOOD)


def test_changes_are_told(path):
    other = replace(GOOD, variant=replace(VARIANT, dtype="fp16"))
    update_recorded([GOOD, other], path)
    key = "fwd_overlap/overlap-bf16-d128-full"
    assert compare_recorded([with_loop(instructions=475), other], read_recorded(path)) == [
        f"{key}: loop_instructions 470 -> 475"
    ]
    assert compare_recorded([other], read_recorded(path)) == [f"{key}: no longer there"]
    new = replace(GOOD, variant=replace(VARIANT, schedule="ws"))
    assert compare_recorded([GOOD, other, new], read_recorded(path)) == ["fwd_overlap/ws-bf16-d128-full: not recorded"]


def test_a_library_that_was_not_looked_at_stays(path):
    ws = replace(GOOD, library="fwd_ws")
    update_recorded([GOOD, ws], path)
    assert compare_recorded([GOOD], read_recorded(path)) == []
    update_recorded([GOOD], path)
    assert compare_recorded([GOOD, ws], read_recorded(path)) == []


def test_a_kernel_file_that_is_gone_leaves_the_record(path):
    update_recorded([GOOD, replace(GOOD, library="fwd_ws")], path)
    (path.parent / "fwd_ws.cu").unlink()
    update_recorded([GOOD], path)
    assert list(read_recorded(path)["variants"]) == [GOOD.key]


def test_without_a_record_every_variant_is_new(path):
    assert compare_recorded([GOOD], read_recorded(path)) == [f"{GOOD.key}: not recorded"]


def test_figures_that_were_not_read_are_not_compared(path):
    with pytest.raises(NotComparable, match="there is no disassembler"):
        compare_recorded([replace(GOOD, sass=None)], read_recorded(path))


@pytest.mark.parametrize(
    ("facts", "count", "words"),
    [
        ([GOOD], 0, "All figures are those of kernels/static.json."),
        ([with_loop(instructions=475)], 1, "loop_instructions 470 -> 475\nIf these changes are meant:"),
        ([replace(GOOD, compiler="nvcc 14.0.0")], 0, "Not compared with kernels/static.json: built by nvcc 14.0.0"),
    ],
)
def test_changes_are_printed(path, monkeypatch, facts, count, words):
    update_recorded([GOOD], path)
    monkeypatch.setattr("attnbench.cli.kernels.read_recorded", lambda: read_recorded(path))
    console = Console(width=150, record=True, file=io.StringIO())
    assert print_changes(facts, console) == count
    assert words in console.export_text()


def test_figures_of_another_compiler_say_nothing(path):
    update_recorded([GOOD], path)
    with pytest.raises(NotComparable, match="built by nvcc 13.2.1, recorded with nvcc 13.5.37"):
        compare_recorded([replace(GOOD, compiler="nvcc 13.2.1")], read_recorded(path))
    with pytest.raises(NotComparable, match="recorded with nvcc 13.5.37, not with nvcc 13.2.1"):
        update_recorded([replace(GOOD, compiler="nvcc 13.2.1")], path)


def test_what_breaks_a_limit_or_was_not_read_is_not_recorded(path):
    with pytest.raises(NotComparable, match="breaks a limit is not recorded:\n.*R2UR"):
        update_recorded([BROKEN["R2UR in the main loop"][0]], path)
    with pytest.raises(NotComparable, match="install cuobjdump and nvdisasm"):
        update_recorded([replace(GOOD, sass=None)], path)
    assert not path.exists()


@pytest.mark.parametrize(("facts", "status"), [([GOOD], 0), ([GOOD, BROKEN["UTMALDG"][0]], 1)])
def test_a_broken_limit_is_status_1_also_as_json(facts, status, monkeypatch, capsys):
    monkeypatch.setattr("attnbench.cli.kernels.inspect_all", lambda names: facts)
    assert inspect_built((), as_json=True, update=False) == status
    assert len(json.loads(capsys.readouterr().out)) == len(facts)
