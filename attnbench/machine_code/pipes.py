"""How many clocks a pass of a main loop needs of each pipe of a multiprocessor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnbench.machine_code.instructions import Instruction
from attnbench.machine_code.products import Product, product_of

# Rates: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions": results per clock and
# multiprocessor, of which each of its four schedulers has a quarter; a warp has 32 threads.
# Special functions: 16 a clock.
MUFU_CLOCKS = 8
# 64 a clock: minimum and maximum, logic, shifts, selection, comparison, byte permutation, conversion, integer addition.
ALU_CLOCKS = 2
ALU = frozenset(
    (
        "FMNMX", "F2FP", "LOP3", "SHF", "PRMT", "ISETP", "FSETP", "FSEL", "SEL", "IADD3", "VIADD", "LEA", "PLOP3",
        "R2P", "P2R", "VIMNMX", "VIADDMNMX", "MOV", "IABS", "BMSK", "SGXT", "I2FP", "HMNMX2", "VIADDMNMX3",
    )
)  # fmt: skip
# 32-bit multiplication and addition: 128 a clock on sm_90, 64 on sm_80. Integer multiply-add shares the pipe: 64.
FP32 = frozenset(("FFMA", "FMUL", "FADD", "HADD2", "HFMA2", "HMUL2"))
FP32_CLOCKS = {"sm_80": 2}
IMAD_CLOCKS = 2

# Multiply-adds of 16 bits a clock: 1024 a multiprocessor on sm_80 (A100: 312 TFLOPS at 1.41 GHz on 108), 2048 on sm_90
# (H100 SXM: 989 TFLOPS at 1.83 GHz on 132). 8 bits: twice that, by twice the depth of an instruction.
TENSOR_RATE = {"sm_80": 1024}
SM90_RATE = 2048
# Rows of a warpgroup's product, and of the products that its four warps make by mma.sync.
PRODUCT_ROWS = 64
# Bits of depth that make one step of the tensor core: 16 of 16 bits.
STEP_BITS = 256
_ELEMENT_BITS = {"e4m3": 8, "e5m2": 8, "int8": 8, "tf32": 32}


@dataclass(frozen=True)
class Pipes:
    """Clocks of a multiprocessor, each pipe for itself: one that is at work all the time takes so long.

    tensor: the tensor cores. issue: a scheduler's slots, one instruction each. mufu: special functions. alu: what runs
    at half rate. fp32: multiplication and addition of floats, and integer multiply-add.
    """

    tensor: float
    issue: float
    mufu: float
    alu: float
    fp32: float

    def times(self, factor: float) -> Pipes:
        return Pipes(*(factor * getattr(self, name) for name in PIPES))


PIPES = ("tensor", "issue", "mufu", "alu", "fp32")


def tensor_clocks(product: Product, arch: str) -> float:
    """Clocks of the tensor cores for one instruction of a warpgroup, or of each of four warps: N/2 for wgmma."""
    bits = _ELEMENT_BITS.get(product.dtype, 16)
    multiply_adds = PRODUCT_ROWS * product.columns * STEP_BITS / 16
    return multiply_adds * (product.depth * bits / STEP_BITS) / TENSOR_RATE.get(arch, SM90_RATE)


def clocks_of(instruction: Instruction, arch: str) -> tuple[str, float] | None:
    """(pipe, clocks) of an instruction of a warp, tensor instructions aside; None where it takes an issue slot only."""
    name = instruction.name
    if name == "MUFU":
        return "mufu", MUFU_CLOCKS
    if name in ALU:
        return "alu", ALU_CLOCKS
    if name in FP32:
        return "fp32", FP32_CLOCKS.get(arch, 1)
    return ("fp32", IMAD_CLOCKS) if name == "IMAD" else None


def pipes_of(instructions: Sequence[Instruction], arch: str) -> Pipes:
    """What one warpgroup needs for these instructions: each of its four warps is on a scheduler of its own."""
    needs = dict.fromkeys(PIPES, 0.0)
    needs["issue"] = len(instructions)
    for instruction in instructions:
        if product := product_of(instruction):
            needs["tensor"] += tensor_clocks(product, arch)
        elif found := clocks_of(instruction, arch):
            needs[found[0]] += found[1]
    return Pipes(**needs)


# A pipe or chain this near to what takes longest limits as well as it does.
_AS_LONG = 0.95
_WORDS = {
    "tensor": "tensor cores",
    "issue": "issue slots",
    "mufu": "MUFU",
    "alu": "ALU",
    "fp32": "FP32",
    "chain": "one warpgroup's chain",
}


def limit_in_words(pipes: Pipes, chain: float) -> str:
    """What takes longest, and what is within 5 % of it: "tensor cores", "MUFU, tensor cores"."""
    needs = {**{name: getattr(pipes, name) for name in PIPES}, "chain": chain}
    return ", ".join(_WORDS[name] for name in longest_first(needs) if needs[name] >= _AS_LONG * max(needs.values()))


def longest_first(needs: dict[str, float]) -> Iterable[str]:
    return sorted(needs, key=lambda name: -needs[name])
