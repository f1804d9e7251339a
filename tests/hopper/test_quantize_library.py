"""The quantize kernel's library, CUDA build (no GPU needed) and emulated: what it answers to bad arguments and tensors;
its machine code; the torch operator."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnbench.case import Case
from attnbench.hopper import quantizer
from attnbench.hopper.build import build_all, build_emulated, kernel_sources, library_path, read_build
from attnbench.hopper.forward import ALIGNED_ADDRESS
from attnbench.hopper.inspect import inspect_build, violations
from attnbench.hopper.library import (
    NO_DRIVER,
    SCALINGS,
    SOURCE,
    VALUE_ORDER,
    KernelError,
    KernelLibrary,
    QuantizeArgs,
    QuantizeLibrary,
    Strides,
)
from attnbench.hopper.operators import hopper_quantize, register_quantize_emulation
from attnbench.hopper.quantizer import (
    BoundQuantize,
    Scheme,
    descale_shape,
    quantize_args,
    quantize_by,
    quantize_on_device,
    sign_bits,
)
from attnbench.hopper.toolchain import KERNELS, find_host_compiler
from attnbench.machine.nvml import gpus
from attnbench.machine_code.instructions import parse_sass
from attnbench.reference.quantize import quantize, signs

GIB = 2**30
TENSORS = ("q", "k", "v", "q8", "k8", "v8t", "q_descale", "k_descale", "v_descale")


@pytest.fixture(scope="module")
def cuda_library(nvcc) -> QuantizeLibrary:
    build_all([SOURCE])
    return QuantizeLibrary(library_path(SOURCE))


@pytest.fixture(scope="module")
def emulated() -> QuantizeLibrary:
    return QuantizeLibrary(build_emulated(*kernel_sources([SOURCE])))


@pytest.fixture(params=["cuda_library", "emulated"])
def library(request) -> QuantizeLibrary:
    return request.getfixturevalue(request.param)


def good_args() -> QuantizeArgs:
    """Batch 2, 130 queries, 200 keys, 4 heads over 2, head_dim 64, one descale a head."""
    return QuantizeArgs(
        abi_version=1, struct_size=ctypes.sizeof(QuantizeArgs), dtype=1, batch=2, seqlen_q=130, seqlen_k=200,
        num_heads=4, num_heads_kv=2, head_dim=64, scaling=SCALINGS["head"], block_size=128, hadamard=1,
        q_strides=Strides(130 * 256, 256, 64), k_strides=Strides(200 * 128, 128, 64),
        v_strides=Strides(200 * 128, 128, 64), **dict.fromkeys(TENSORS, ALIGNED_ADDRESS),
    )  # fmt: skip


def test_good_arguments_and_their_workspace(library):
    args = good_args()
    assert library.supports(args) == (0, "")
    assert library.workspace_bytes(args) == 4 * (2 * 4 + 2 * 2 + 2 * 2)
    sizes = {"none": 0, "tensor": 3 * 4, "block": 0}
    for scaling, size in sizes.items():
        args.scaling = SCALINGS[scaling]
        assert library.workspace_bytes(args) == size
    args.block_size = 256
    assert library.workspace_bytes(args) == 4 * (2 * 4 + 2 * 2 * 2)


BAD = {
    "abi_version": ({"abi_version": 9}, 1, "the caller speaks ABI version 9, the library 1"),
    "struct_size": ({"struct_size": 8}, 2, f"struct has 8 bytes, the library's {ctypes.sizeof(QuantizeArgs)}"),
    **{f"null_{name}": ({name: None}, 3, f"{name} is NULL") for name in TENSORS},
    "head_dim": ({"head_dim": 96}, 4, "there is no variant for head_dim 96"),
    "dtype": ({"dtype": 2}, 5, "dtype 2: must be 0 (fp16) or 1 (bf16)"),
    "batch": ({"batch": 0}, 6, "batch is 0: must be at least 1"),
    "seqlen": ({"seqlen_k": -1}, 6, "seqlen_k is -1: must be at least 1"),
    "block_of_48": ({"scaling": 3, "block_size": 48}, 6, "block_size is 48: must be 32, 64 or a multiple of 128"),
    "block_of_0": ({"scaling": 3, "block_size": 0}, 6, "block_size is 0: must be"),
    "stride": ({"q_strides": Strides(33280, 260, 64)}, 7, "is 260 elements (520 bytes): must be a multiple of 16"),
    "expanded": ({"v_strides": Strides(0, 128, 64)}, 7, "v stride over batch is 0: must be positive"),
    "misaligned": ({"k": ALIGNED_ADDRESS + 2}, 8, "k starts at 0x102: must be 16-byte aligned"),
    "misaligned_out": ({"v8t": ALIGNED_ADDRESS + 8}, 8, "v8t starts at 0x108: must be 16-byte aligned"),
    "misaligned_descale": ({"v_descale": ALIGNED_ADDRESS + 2}, 8, "v_descale starts at 0x102: must be 4-byte aligned"),
    "scaling": ({"scaling": 4}, 9, "scaling 4: must be 0 (none), 1 (tensor), 2 (head) or 3 (block)"),
    "hadamard": ({"hadamard": 2}, 9, "hadamard is 2: must be 0 or 1"),
    "too_long": ({"seqlen_q": GIB}, 10, "seqlen_q 1073741824, seqlen_k 200: the longest is"),
    "too_many": ({"batch": GIB}, 10, "more than 2^30 tiles"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(library, name):
    changes, status, text = BAD[name]
    args = good_args()
    for field, value in changes.items():
        setattr(args, field, value)
    found, reason = library.supports(args)
    assert (found, text in reason) == (status, True), reason
    assert library.workspace_bytes(args) == 0
    with pytest.raises(KernelError, match=re.escape(text)) as caught:
        library.launch(args)
    assert caught.value.status == status


def test_a_missing_workspace_is_a_status(library):
    args = good_args()
    with pytest.raises(KernelError, match="workspace too small: 0 bytes given, 64 needed"):
        library.launch(args)
    args.workspace_bytes, args.workspace = 64, None
    with pytest.raises(KernelError, match="null pointer"):
        library.launch(args)
    assert library.c_library.attnbench_quantize_launch(None) == 3


@pytest.mark.skipif(bool(gpus()), reason="not run: it is about a machine without a GPU")
def test_a_launch_without_a_driver_is_a_status(cuda_library):
    args = good_args()
    args.scaling = SCALINGS["none"]
    with pytest.raises(KernelError, match="quantize.so: no CUDA driver, one older") as caught:
        cuda_library.launch(args)
    assert caught.value.status == NO_DRIVER


def test_one_table_in_both_builds_and_no_confusion_of_interfaces(cuda_library, emulated):
    assert cuda_library.variants == emulated.variants and len(emulated.variants) == 6
    assert (cuda_library.device_type, emulated.device_type) == ("cuda", "cpu")
    with pytest.raises(KernelError, match="is no kernel library"):
        KernelLibrary(emulated.path)
    with pytest.raises(KernelError, match="is no quantize_kernel library"):
        QuantizeLibrary(build_emulated(*kernel_sources(["fwd_simple"])))


def tensors(head_dim: int = 64, dtype=torch.bfloat16, **changes):
    """q, k, v of batch 2, 5 queries, 7 keys, 4 heads over 2."""
    shapes = {"q": (2, 5, 4, head_dim), "k": (2, 7, 2, head_dim), "v": (2, 7, 2, head_dim)} | changes
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


WRONG = {
    "rank": (lambda t: t | {"q": t["q"][0]}, "q has 3 dimensions: must be (batch, seqlen, heads, head_dim)"),
    "fp32": (lambda t: {n: x.float() for n, x in t.items()}, "q is torch.float32: all must be fp16, or all bf16"),
    "mixed": (lambda t: t | {"v": t["v"].half()}, "v is torch.float16: all must be fp16, or all bf16"),
    "strided": (lambda t: t | {"k": t["k"].transpose(1, 3).contiguous().transpose(1, 3)},
                "k: the last dimension must be contiguous, its stride is 14"),
    "v_shape": (lambda t: t | {"v": t["v"][:, :6]}, "k has shape (2, 7, 2, 64), v (2, 6, 2, 64): must be the same"),
    "batch": (lambda t: t | {"q": t["q"][:1]}, "batch and head_dim must be the same"),
    "device": (lambda t: t | {"k": t["k"].to("meta")}, "k is on meta: all must be on one cpu device"),
    "expanded": (lambda t: t | {"q": t["q"][:1].expand(2, 5, 4, 64)}, "q stride over batch is 0"),
    "head_dim": (lambda t: tensors(96), "there is no variant for head_dim 96"),
    "wide": (lambda t: tensors(512), "there is no variant for head_dim 512"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tensors(emulated, name):
    change, message = WRONG[name]
    with pytest.raises(KernelError, match=re.escape(message)):
        BoundQuantize.of(emulated, **change(tensors()), scheme=Scheme(hadamard=True))


def test_what_the_kernel_does_not_do_is_refused(emulated):
    with pytest.raises(KernelError, match="it has no descale per token; there are none, tensor, head, block"):
        BoundQuantize.of(emulated, **tensors(), scheme=Scheme("token"))
    assert Scheme("block").unsupported() is None


def test_cpu_tensors_are_refused_by_the_cuda_build(cuda_library):
    with pytest.raises(KernelError, match="quantize.so: q is on cpu: all must be on one cuda device"):
        BoundQuantize.of(cuda_library, **tensors(), scheme=Scheme())


def test_a_missing_library_says_the_way_out(monkeypatch):
    monkeypatch.setattr(quantizer, "missing_library", lambda name: f"kernels/{name}.cu is not built; build it")
    quantizer.built_library.cache_clear()
    with pytest.raises(KernelError, match="kernels/quantize.cu is not built; build it"):
        quantize_on_device(**tensors(), scheme=Scheme())


def test_sizes_beyond_int32_do_not_wrap(emulated):
    named, scheme = tensors(), Scheme("tensor")
    bound = BoundQuantize.of(emulated, **named, scheme=scheme)
    q = named["q"][:1, :1].expand(1, 2**32 + 3, 4, 64)
    assert emulated.supports(quantize_args(q, named["k"], named["v"], scheme, bound.made))[0] == 6


def test_sign_bits_are_the_references_signs():
    for head_dim in (64, 128, 256):
        words = sign_bits(head_dim, 7)
        unpacked = [-1.0 if words[i // 32] >> i % 32 & 1 else 1.0 for i in range(head_dim)]
        assert torch.equal(torch.tensor(unpacked), signs(head_dim, 7)) and not any(words[head_dim // 32 :])


def test_value_order():
    assert VALUE_ORDER == (0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15)


def test_descale_shapes_are_the_references():
    named = tensors()
    for scaling, size in (("none", 128), ("tensor", 128), ("head", 128), ("block", 4)):
        case = Case.make(batch=2, seqlen_q=5, seqlen_k=7, num_heads=4, num_heads_kv=2, head_dim=64, dtype="e4m3",
                         scaling=scaling, block_size=size)  # fmt: skip
        made = quantize(*named.values(), case)
        for name, heads, seqlen in (("q", 4, 5), ("k", 2, 7), ("v", 2, 7)):
            wanted = descale_shape(Scheme.of(case), 2, seqlen, heads)
            assert tuple(getattr(made, f"{name}_descale").shape) == wanted


def test_division_by_multiplication(tmp_path):
    program = tmp_path / "divisor"
    includes = [f"-I{KERNELS / folder}" for folder in ("emulation/include", "include")]
    source = Path(__file__).with_name("test_divisor.cpp")
    subprocess.run([find_host_compiler(), "-std=c++17", "-O1", *includes, source, "-o", program], check=True)
    comparisons, mismatches = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    assert int(comparisons) > 1_000_000 and int(mismatches) == 0


# ---- machine code ----


@pytest.fixture(scope="module")
def facts(cuda_library, disassembler):
    return inspect_build(read_build(cuda_library.path), cuda_library.path)


def test_every_kernel_fits_and_spills_nothing(facts):
    assert {one.key for one in facts} == {
        f"quantize/{schedule}-{dtype}-d{head_dim}-any"
        for schedule in ("write", "amax") for dtype in ("fp16", "bf16") for head_dim in (64, 128, 256)
    }  # fmt: skip
    assert [str(violation) for violation in violations(facts)] == []


def test_the_limits_see_spills_and_too_many_registers(facts):
    one = facts[0]
    spilled = replace(one, ptxas=replace(one.ptxas, spill_store_bytes=8, registers=136))
    text = "\n".join(map(str, violations([spilled])))
    assert "bytes spilled is 8, at most 0" in text and "registers with 512 threads together is 136, at most 128" in text
    large = replace(one, ptxas=replace(one.ptxas, static_shared_bytes=30_000))
    assert "shared memory with 512 threads together is" in str(violations([large])[0])


def test_memory_is_moved_in_wide_pieces(cuda_library, disassembler):
    """Input by TMA and 16-byte shared loads, q and k out by 8 bytes, v by 16; the only narrow store is a descale's."""
    functions = parse_sass(disassembler.sass(cuda_library.path))
    for variant in cuda_library.table():
        opcodes = [instruction.opcode for instruction in functions[variant.kernel]]
        assert not [one for one in opcodes if one.startswith(("LDL", "STL"))]
        assert sum(one.startswith("UTMALDG") for one in opcodes) == 3 * variant.head_dim // 64
        loads = [one for one in opcodes if one.startswith("LDG")]
        stores = sorted(one for one in opcodes if one.startswith("STG"))
        if variant.schedule == "amax":
            assert loads == [] and stores == []
        else:
            assert len(loads) == 1, "the largest magnitude of the pass before"
            assert stores == ["STG.E"] + 4 * ["STG.E.128"] + 8 * ["STG.E.64"]


# ---- operator ----


@pytest.fixture
def operator(emulated):
    register_quantize_emulation(emulated)
    return hopper_quantize


def test_opcheck(operator):
    torch.library.opcheck(operator, (*tensors().values(), "block", 64, True, 3))
    transposed = {name: one.transpose(1, 2).contiguous().transpose(1, 2) for name, one in tensors().items()}
    torch.library.opcheck(operator, (*transposed.values(), "tensor", 128, False, 0))


def test_the_operator_compiles_without_a_graph_break(operator):
    def layer(q, k, v):
        return [one.view(torch.uint8) for one in operator(q * 2, k, v, "head", 128, True, 3)]

    named = tensors()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(**named), layer(**named)))


def test_fake_shapes():
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(4, 2**20, 32, 128, dtype=torch.bfloat16)
        k = torch.empty(4, 2**20 + 3, 8, 128, dtype=torch.bfloat16)
        made = hopper_quantize(q, k, k, "block", 128, True, 0)
    assert [tuple(one.shape) for one in made] == [
        (4, 2**20, 32, 128), (4, 2**20 + 3, 8, 128), (4, 8, 128, 2**20 + 16),
        (4, 2**13, 32), (4, 2**13 + 1, 8), (4, 2**13 + 1, 8),
    ]  # fmt: skip
    assert [one.dtype for one in made] == 3 * [torch.float8_e4m3fn] + 3 * [torch.float32]


def test_the_same_call_by_hand(emulated, operator):
    named = tensors(128, torch.float16)
    made = quantize_by(emulated, **named, scheme=Scheme("tensor", hadamard=True, seed=4))
    by_operator = operator(*named.values(), "tensor", 128, True, 4)
    assert torch.equal(made.v_transposed.view(torch.uint8), by_operator[2].view(torch.uint8))
    assert torch.equal(made.q_descale, by_operator[3])
