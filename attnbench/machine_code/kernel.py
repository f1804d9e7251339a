"""What the machine code of one kernel shows: its registers, its spills, and each main loop's needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.machine_code.chain import chain_clocks
from attnbench.machine_code.cubin import Kernel
from attnbench.machine_code.instructions import Instruction
from attnbench.machine_code.loops import MainLoop
from attnbench.machine_code.names import Argument, read_name
from attnbench.machine_code.pipes import Pipes, limit_in_words, pipes_of
from attnbench.machine_code.products import MULTIPLIES, WARPGROUP_MULTIPLIES, Step, step_of

# Keys that figures are given for, so that loops with different tiles compare.
KEYS = 128
WARPGROUP = 128
# A loop masks where it selects at least this part of its scores; one without a mask selects a few values a row.
MASKED_SHARE = 0.5
_SELECTS = ("FSEL", "SEL")
_SPILLS = ("LDL", "STL")
_EXPONENTIAL = "MUFU.EX2"


@dataclass(frozen=True)
class LoopFacts:
    """One main loop. docs/reference/machine-code.md says what each figure is.

    keys: of a pass, 0 where the code does not show them; figures are then those of a pass, else of 128 keys.
    instructions, common_path, exposed, chain: of one warpgroup. pipes: of all that multiply. tensor: instructions of a
    pass by shape. exponentials, in_flight: of a pass of the common path. in_flight and exposed are None where products
    are not asynchronous (mma.sync).
    """

    masked: bool
    keys: int
    instructions: float
    common_path: float
    tensor: Mapping[str, int]
    pipes: Pipes
    exponentials: int
    in_flight: int | None
    exposed: float | None
    chain: float
    conditional_rescale: bool
    spills: int
    limit: str


@dataclass(frozen=True)
class MachineKernel:
    """One kernel as its machine code shows it.

    arguments: what its name says, and of dtype, head_dim and tile_n what the products of its loops say. warpgroups:
    those that multiply. spills: LDL and STL anywhere.
    """

    symbol: str
    name: str
    short: str
    arguments: Mapping[str, Argument]
    file: str
    arch: str
    compiler: str
    registers: int
    shared_bytes: int
    threads: int
    warpgroups: int
    instructions: int
    tensor_instructions: int
    spills: int
    loops: tuple[LoopFacts, ...]


def kernel_facts(kernel: Kernel, instructions: Sequence[Instruction], loops: Sequence[MainLoop]) -> MachineKernel:
    """Reads one kernel of the outline of its code, and its main loops decoded in full."""
    names = Counter(instruction.name for instruction in instructions)
    name = read_name(kernel.symbol, kernel.origin)
    warpgroups = _warpgroups(kernel, instructions)
    steps = [step_of(loop.path) for loop in loops]
    forward = name.arguments.get("direction") != "bwd"
    facts = tuple(_loop_facts(loop, step, kernel.arch, warpgroups, forward) for loop, step in zip(loops, steps))
    return MachineKernel(
        symbol=kernel.symbol,
        name=name.full,
        short=name.short,
        arguments=_from_products(steps, forward) | dict(name.arguments),
        file=kernel.origin,
        arch=kernel.arch,
        compiler=kernel.compiler,
        registers=kernel.registers,
        shared_bytes=kernel.shared_bytes,
        threads=kernel.threads,
        warpgroups=warpgroups,
        instructions=len(instructions),
        tensor_instructions=sum(names[name] for name in MULTIPLIES),
        spills=sum(names[name] for name in _SPILLS),
        loops=facts,
    )


def _warpgroups(kernel: Kernel, instructions: Sequence[Instruction]) -> int:
    """How many warpgroups of a CTA multiply: all, or with setmaxnreg as many as the registers suffice for.

    Those that give registers up load; the others take up to what all began with.
    """
    groups = max(kernel.threads // WARPGROUP, 1)
    taken = _setmaxnreg(instructions, "USETMAXREG.TRY_ALLOC")
    given = _setmaxnreg(instructions, "USETMAXREG.DEALLOC")
    if not taken or not given or groups == 1:
        return groups
    pool = kernel.registers * groups
    return max((count for count in range(1, groups) if taken * count + given * (groups - count) <= pool), default=1)


def _setmaxnreg(instructions: Sequence[Instruction], opcode: str) -> int:
    """Registers per thread that the instruction asks for: its last operand."""
    found = (one.operands.rsplit(",", 1)[-1].strip() for one in instructions if one.opcode.startswith(opcode))
    return max((int(operand, 16) for operand in found if operand.startswith("0x")), default=0)


def _from_products(steps: Sequence[Step], forward: bool) -> dict[str, Argument]:
    products = [product for step in steps for product in step.products]
    found: dict[str, Argument] = {"dtype": products[0].dtype} if products else {}
    first = next((step for step in steps if step.score_columns), None)
    if first is not None and forward:
        found |= {"head_dim": first.head_dim, "tile_n": first.score_columns}
    return found


def _loop_facts(loop: MainLoop, step: Step, arch: str, warpgroups: int, forward: bool) -> LoopFacts:
    keys = step.score_columns if forward else 0
    scale = KEYS / keys if keys else 1.0
    pipes = pipes_of(loop.path, arch).times(scale * warpgroups)
    chain = chain_clocks(loop.path, arch) * scale
    exponential = [one.opcode.startswith(_EXPONENTIAL) for one in loop.path]
    asynchronous = any(one.name in WARPGROUP_MULTIPLIES for one in loop.path)
    return LoopFacts(
        masked=sum(one.name in _SELECTS for one in loop.path) >= max(MASKED_SHARE * sum(exponential), 1),
        keys=keys,
        instructions=len(loop.body) * scale,
        common_path=len(loop.path) * scale,
        tensor=dict(Counter(_shape(one) for one in loop.path if one.name in MULTIPLIES)),
        pipes=pipes,
        exponentials=sum(exponential),
        in_flight=sum(map(min, exponential, loop.in_flight)) if asynchronous else None,
        exposed=loop.in_flight.count(False) * scale if asynchronous else None,
        chain=chain,
        conditional_rescale=_rescales_conditionally(loop, step),
        spills=sum(one.name in _SPILLS for one in loop.body),
        limit=limit_in_words(pipes, chain),
    )


def _shape(instruction: Instruction) -> str:
    """64x176x16 of HGMMA.64x176x16.F32.BF16, 16816 of HMMA.16816.F32."""
    return instruction.opcode.split(".")[1]


def _rescales_conditionally(loop: MainLoop, step: Step) -> bool:
    """Whether outputs are multiplied in the loop's body and not on its common path."""
    registers = {
        product.accumulator + offset
        for product in step.products
        if product.accumulator in step.outputs
        for offset in range(product.registers)
    }
    common = {instruction.address for instruction in loop.path}
    rescaling = [one.address in common for one in loop.body if one.name == "FMUL" and _target(one) in registers]
    return bool(rescaling) and not any(rescaling)


def _target(instruction: Instruction) -> int | None:
    register = instruction.operands.split(",", 1)[0].strip()
    return int(register[1:]) if register[:1] == "R" and register[1:].isdigit() else None
