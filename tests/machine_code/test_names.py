"""What kernels' names say, ours and peers'."""

from __future__ import annotations

import pytest

from attnbench.machine_code.names import read_name

# As cuobjdump lists them of fa3-fwd 0.0.3.
FA3 = (
    "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_25CollectiveMainloopFwdSm90"
    "ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi64EEESA_SA_EEELi512ENS_10bfloat16_tEfNS_4arch4Sm90ELb0ELb0"
    "ELb1ELb0ELb0ELb0ELb0ELb0ELb0ELb0ELb0ELb0EEENS1_21CollectiveEpilogueFwdINS6_IJSA_NS7_ILi512EEESA_EEES9_SC_SE_"
    "Li256ELb0ELb0ELb0ELb0EEENS1_29StaticPersistentTileSchedulerILb0EEEEEEEEEvNT_6ParamsE"
)


def test_flash_attention_3():
    name = read_name(FA3, "fa3_fwd.whl:_C.so")
    assert name.short == "FlashAttnFwdSm90" and name.full.startswith("void cutlass::device_kernel<")
    said = name.arguments
    assert (said["tile_m"], said["tile_n"], said["head_dim"], said["head_dim_v"]) == (64, 64, 64, 512)
    assert (said["dtype"], said["causal"], said["softcap"], said["varlen"]) == ("bf16", False, True, False)
    assert "cluster" not in said


@pytest.mark.parametrize(
    ("full", "said"),
    [
        (
            "flash::CollectiveMainloopBwdSm90<2, 2, 2, cute::tuple<cute::C<2>, cute::C<1>, cute::C<1> >, "
            "cute::tuple<cute::C<64>, cute::C<128>, cute::C<96> >, cutlass::half_t, float, cutlass::arch::Sm90, true, "
            "false, false, false, true, true>",
            {"tile_m": 64, "tile_n": 128, "head_dim": 96, "dtype": "fp16", "causal": True, "deterministic": True,
             "cluster": 2, "direction": "bwd"},
        ),
        (
            "void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, cutlass::bfloat16_t, "
            "Flash_kernel_traits<128, 128, 64, 4, cutlass::bfloat16_t> >, false, true, false, true>(Params)",
            {"head_dim": 128, "tile_m": 128, "tile_n": 64, "dtype": "bf16", "dropout": False, "causal": True,
             "local": False, "alibi": True},
        ),
        ("fwd_two_level_e4m3_d256_causal", {"dtype": "e4m3", "head_dim": 256, "causal": True, "schedule": "two_level"}),
    ],
)  # fmt: skip
def test_other_templates_and_plain_words(full, said):
    assert said.items() <= read_name(full, "x.so").arguments.items()


@pytest.mark.parametrize("added", ["", "false, "])
def test_a_flag_more_in_sglangs_template(added):
    full = (
        "flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1> >, "
        "cute::tuple<cute::C<128>, cute::C<176>, cute::C<128> >, 128, cutlass::bfloat16_t, float, cutlass::arch::Sm90, "
        f"true, false, false, false, false, false, false, {added}true, true, false, true, false, cutlass::bfloat16_t> >"
    )
    said = read_name(full, "x.so").arguments
    assert (said["causal"], said["qv"], said["overlap"]) == (True, False, True)
    assert (said["packed_gqa"], said["split"]) == (False, True)


def test_a_name_that_says_nothing_leaves_the_file_to_say_it():
    name = read_name("kernel_cutlass_object_at_0", "fa4-bf16-d128-causal.cubin")
    assert {"dtype": "bf16", "head_dim": 128, "causal": True}.items() <= name.arguments.items()
    assert read_name("_Z17fill_float_kernelPffm", "x.so").short == "fill_float_kernel"
    assert read_name("_Z17fill_float_kernelPffm", "x.so").arguments == {}
    assert len(read_name("k" * 200, "x.so").short) < 60
