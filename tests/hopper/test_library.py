"""Loading a kernel library, and what it answers to bad arguments: a status and a sentence, never a crash.

Run on CUDA builds (no GPU and no driver needed), on an emulated build, and on scalar attention behind the interface.
"""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch

from attnbench.case import Case
from attnbench.hopper.forward import ALIGNED_ADDRESS, BoundForward, case_args, forward_args
from attnbench.hopper.library import NO_DRIVER, WRONG_ARCHITECTURE, ForwardArgs, KernelError, KernelLibrary, Strides
from attnbench.hopper.toolchain import find_host_compiler
from attnbench.machine.nvml import gpus

GIB = 2**30


@pytest.fixture(params=["simple_library", "emulated_library", "tiny_library", "scalar_library"])
def library(request) -> KernelLibrary:
    return request.getfixturevalue(request.param)


def good_args(library: KernelLibrary) -> ForwardArgs:
    """Arguments that the check accepts: batch 2, 128 queries, 192 keys, 4 heads over 2, head_dim 64."""
    case = Case.make(batch=2, seqlen_q=128, seqlen_k=192, num_heads=4, num_heads_kv=2, head_dim=64, dtype="fp16")
    return case_args(library.find(library.variants[0].schedule, "fp16", 64, False), case)


def test_good_arguments_are_accepted(library):
    args = good_args(library)
    assert library.supports(args) == (0, "")
    args.lse = 4
    assert library.supports(args) == (0, "")


BAD = {
    "abi_version": ({"abi_version": 1}, 1, "the caller speaks ABI version 1, the library 2"),
    "struct_size": ({"struct_size": 8}, 2, "the caller's argument struct has 8 bytes, the library's 320"),
    "null_q": ({"q": None}, 3, "q is NULL"),
    "null_out": ({"out": None}, 3, "out is NULL"),
    "variant_negative": ({"variant": -1}, 4, "variant -1 does not exist"),
    "variant_beyond": ({"variant": 99}, 4, "variant 99 does not exist"),
    "dtype_of_another_row": ({"dtype": 1}, 4, "is for fp16, not bf16"),
    "head_dim": ({"head_dim": 128}, 4, "is for head_dim 64, not 128"),
    "head_dim_v": ({"head_dim_v": 128}, 4, "is for head_dim 64, not 64 (head_dim_v 128)"),
    "dtype_unknown": ({"dtype": 3}, 5, "dtype 3: must be 0 (fp16), 1 (bf16) or 2 (e4m3)"),
    "batch_zero": ({"batch": 0}, 6, "batch is 0: must be at least 1"),
    "seqlen_k_zero": ({"seqlen_k": 0}, 6, "seqlen_k is 0: must be at least 1"),
    "seqlen_q_negative": ({"seqlen_q": -5}, 6, "seqlen_q is -5: must be at least 1"),
    "heads_kv_zero": ({"num_heads_kv": 0}, 6, "num_heads_kv is 0: must be at least 1"),
    "heads_ratio": ({"num_heads_kv": 3}, 6, "num_heads 4 is not a multiple of num_heads_kv 3"),
    "causal": ({"causal": 2}, 6, "causal is 2: must be 0 or 1"),
    "stride_zero": ({"k_strides": Strides(0, 128, 64)}, 7, "k stride over batch is 0: must be positive"),
    "stride_negative": ({"v_strides": Strides(24576, -128, 64)}, 7, "v stride over seqlen is -128: must be positive"),
    "stride_16_bytes": ({"q_strides": Strides(32768, 260, 64)}, 7, "is 260 elements (520 bytes): must be a multiple"),
    "stride_2_40": ({"q_strides": Strides(2**39, 256, 64)}, 7, "must be below 2^40 bytes"),
    "out_overlaps": ({"out_strides": Strides(32768, 64, 64)}, 7, "out strides (32768, 64, 64) make its elements"),
    "q_misaligned": ({"q": ALIGNED_ADDRESS + 2}, 8, "q starts at 0x102: must be 16-byte aligned"),
    "out_misaligned": ({"out": ALIGNED_ADDRESS + 8}, 8, "out starts at 0x108: must be 16-byte aligned"),
    "lse_misaligned": ({"lse": 2}, 8, "lse starts at 0x2: must be 4-byte aligned"),
    "out_dtype": ({"out_dtype": 1}, 5, "out_dtype 1: must be 0, as dtype"),
    "descale_of_fp16": ({"v_descale": ALIGNED_ADDRESS}, 15, "descales are for e4m3, not for fp16"),
    "block_of_fp16": ({"descale_block_size": 128}, 15, "descales are for e4m3, not for fp16"),
    "scale_zero": ({"softmax_scale": 0.0}, 9, "softmax_scale is 0: must be finite and above 0"),
    "scale_nan": ({"softmax_scale": float("nan")}, 9, "must be finite and above 0"),
    "scale_infinite": ({"softmax_scale": float("inf")}, 9, "must be finite and above 0"),
    "seqlen_too_large": ({"seqlen_k": GIB}, 10, "seqlen_q 128, seqlen_k 1073741824: the longest is 536870912"),
    "grid_too_large": ({"batch": GIB}, 10, "more than 2^31 - 1 tiles of 64 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(library, name):
    changes, expected_status, expected_text = BAD[name]
    args = good_args(library)
    for field, value in changes.items():
        setattr(args, field, value)
    status, reason = library.supports(args)
    assert (status, expected_text in reason) == (expected_status, True), reason
    assert library.workspace_bytes(args) == 0
    with pytest.raises(KernelError) as caught:
        library.launch(args)
    assert caught.value.status == expected_status
    assert expected_text in str(caught.value)


def test_strides_of_size_1_dimensions_are_not_looked_at(library):
    args = good_args(library)
    args.batch = 1
    args.q_strides = Strides(-7, 256, 64)
    args.out_strides = Strides(0, 256, 64)
    assert library.supports(args) == (0, "")


def test_a_null_struct_is_a_status(library):
    assert library.c_library.attnbench_supports(None, None, 0) == 3
    assert library.c_library.attnbench_launch(None) == 3
    assert library.c_library.attnbench_workspace_bytes(None) == 0


def test_a_short_reason_buffer_is_never_overrun(library):
    args = good_args(library)
    args.batch = 0
    text = ctypes.create_string_buffer(b"x" * 16, 16)
    assert library.c_library.attnbench_supports(ctypes.byref(args), text, 8) == 6
    assert text.raw == b"batch i\0" + b"x" * 8


def test_describe_past_the_end(library):
    assert not library.c_library.attnbench_describe(-1)
    assert not library.c_library.attnbench_describe(len(library.variants))


def test_status_texts(library):
    names = [library.c_library.attnbench_status_string(status).decode() for status in range(17)]
    assert names[0] == "ok" and names[12] == "no CUDA driver, one older than the CUDA runtime, or no device"
    assert names[16] == "unknown status"
    assert len(set(names)) == 17


@pytest.mark.skipif(bool(gpus()), reason="not run: it is about a machine without a GPU")
@pytest.mark.parametrize("name", ["tiny_library", "simple_library"])
def test_a_launch_without_a_driver_is_a_status(name, request):
    library = request.getfixturevalue(name)
    with pytest.raises(KernelError, match=".so: no CUDA driver, one older") as caught:
        library.launch(good_args(library))
    assert caught.value.status == NO_DRIVER
    assert WRONG_ARCHITECTURE != NO_DRIVER


def test_cuda_errors_have_their_text(tiny_library):
    text = tiny_library.c_library.attnbench_status_string(1700).decode()
    assert text == "an illegal memory access was encountered"


def test_device_types(simple_library, emulated_library):
    assert (simple_library.device_type, emulated_library.device_type) == ("cuda", "cpu")


def test_both_builds_of_a_kernel_have_one_variant_table(simple_library, emulated_library):
    assert simple_library.variants == emulated_library.variants


def test_variants(scalar_library):
    first, second, third = scalar_library.variants
    assert (first.schedule, first.dtype, first.causal, first.flags) == ("overlap", "fp16", None, ("overlap",))
    assert (third.causal, third.flags, third.accumulator) == (True, ("warp_specialized", "persistent"), "two_level")
    assert third.key == "ws-bf16-d64-causal" and second.key == "overlap-bf16-d64-any"
    assert scalar_library.find("ws", "bf16", 64, True) == third
    assert scalar_library.find("ws", "bf16", 64, False) is None
    assert scalar_library.find("overlap", "bf16", 64, False) == second
    assert scalar_library.find("overlap", "bf16", 64, True) == second


def compile_c(tmp_path, text: str):
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(text)
    subprocess.run([find_host_compiler(), "-x", "c", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


def test_files_that_are_no_kernel_library(tmp_path):
    with pytest.raises(KernelError, match="cannot load .*nowhere.so"):
        KernelLibrary(tmp_path / "nowhere.so")
    with pytest.raises(KernelError, match="is no kernel library: .*attnbench_abi_version"):
        KernelLibrary(compile_c(tmp_path, "int other(void) { return 0; }"))


def test_another_abi_version(tmp_path):
    names = ("variant_count", "describe", "supports", "workspace_bytes", "launch", "status_string")
    text = "unsigned attnbench_abi_version(void) { return 7; }\n"
    text += "\n".join(f"int attnbench_{name}(void) {{ return 0; }}" for name in names)
    with pytest.raises(KernelError, match="speaks ABI version 7, this program 2; rebuild it: attnbench kernels build"):
        KernelLibrary(compile_c(tmp_path, text))


def tensors(**changes):
    """q, k, v of batch 2, 5 queries, 7 keys, 4 heads over 2, head_dim 64."""
    shapes = {"q": (2, 5, 4, 64), "k": (2, 7, 2, 64), "v": (2, 7, 2, 64)} | changes
    return {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


def bind(library: KernelLibrary, causal: bool = False, scale: float = 0.125, **named) -> BoundForward:
    variant = library.find("overlap", "bf16", 64, causal)
    return BoundForward.of(library, variant, causal=causal, softmax_scale=scale, **named)


def strided(tensor):
    """The same numbers with head_dim outside seqlen."""
    return tensor.transpose(1, 3).contiguous().transpose(1, 3)


WRONG_TENSORS = {
    "rank": (lambda t: t | {"q": t["q"][0]}, "q has 3 dimensions: must be"),
    "last_stride": (lambda t: t | {"k": strided(t["k"])}, "k: the last dimension must be contiguous, its stride is 14"),
    "dtype": (lambda t: {name: one.float() for name, one in t.items()}, "dtype torch.float32: must be one of"),
    "mixed": (lambda t: t | {"v": t["v"].half()}, "v is torch.float16, q is torch.bfloat16"),
    "batch": (lambda t: t | {"k": t["k"][:1]}, r"k has shape \(1, 7, 2, 64\): must be \(2, 7, 2, 64\)"),
    "length": (lambda t: t | {"k": t["k"][:, :3]}, r"k has shape \(2, 3, 2, 64\): must be \(2, 7, 2, 64\)"),
    "device": (lambda t: {name: one.to("meta") for name, one in t.items()}, "q is on meta: .* takes cpu tensors"),
    "expanded": (lambda t: t | {"q": t["q"][:1].expand(2, 5, 4, 64)}, "q stride over batch is 0"),
    "offset": (lambda t: t | {"v": torch.zeros(1793).bfloat16()[1:].view(2, 7, 2, 64)}, "16-byte aligned"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors(scalar_library, name):
    change, message = WRONG_TENSORS[name]
    with pytest.raises(KernelError, match=message):
        bind(scalar_library, **change(tensors()))


def test_cuda_library_refuses_cpu_tensors(tiny_library):
    half = {name: tensor.half() for name, tensor in tensors().items()}
    with pytest.raises(KernelError, match="q is on cpu: tiny.so takes cuda tensors"):
        BoundForward.of(tiny_library, tiny_library.variants[0], causal=False, softmax_scale=1.0, **half)


def test_sizes_beyond_int32_do_not_wrap(scalar_library):
    """2^32 + 3 queries must not arrive as 3; expanded, since nobody has the memory."""
    named = tensors()
    q = named["q"][:1, :1].expand(1, 2**32 + 3, 4, 64)
    args = forward_args(scalar_library.variants[1], q, named["k"], named["v"], q, None, False, 1.0)
    status, reason = scalar_library.supports(args)
    assert (status, reason) == (6, "seqlen_q is -1: must be at least 1")


def reference(q, k, v, causal, scale):
    q, k, v = (tensor.double().transpose(1, 2) for tensor in (q, k, v))
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = scale * q @ k.transpose(2, 3)
    if causal:
        rows, columns = scores.shape[2:]
        seen = torch.ones((rows, columns), dtype=torch.bool, device=scores.device).tril(columns - rows)
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2), torch.logsumexp(scores, dim=-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
@pytest.mark.parametrize("seqlen_q", [5, 9])
def test_arguments_reach_the_kernel(scalar_library, causal, layout, seqlen_q):
    """Strides, GQA, scale, masks and rows that see no key, through the struct and back."""
    named = tensors(q=(2, seqlen_q, 4, 64))
    if layout == "bhsd":
        named = {name: tensor.transpose(1, 2).contiguous().transpose(1, 2) for name, tensor in named.items()}
    bound = bind(scalar_library, causal=causal, scale=0.3, **named)
    assert bound.args.workspace_bytes == (64 if causal else 0)
    bound.launch()
    out, lse = reference(**named, causal=causal, scale=0.3)
    torch.testing.assert_close(bound.out.double(), out, rtol=8e-3, atol=8e-3)
    torch.testing.assert_close(bound.lse.double(), lse, rtol=1e-5, atol=1e-5)


def test_workspace_is_checked_at_launch(scalar_library):
    bound = bind(scalar_library, causal=True, **tensors())
    bound.args.workspace_bytes = 63
    with pytest.raises(KernelError, match="workspace too small: 63 bytes given, 64 needed") as caught:
        bound.launch()
    assert caught.value.status == 11
    bound.args.workspace_bytes, bound.args.workspace = 64, None
    with pytest.raises(KernelError, match="null pointer"):
        bound.launch()


def test_an_error_below_the_library_is_reported(scalar_library):
    bound = bind(scalar_library, **tensors())
    bound.args.workspace_bytes = 4096
    with pytest.raises(KernelError, match="an error of the layer below") as caught:
        bound.launch()
    assert caught.value.status == 1007
