"""The matrix products of a main loop: which make scores, which make outputs, and how many keys a pass takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.machine_code.instructions import Instruction

# Of a warpgroup (wgmma), and of a warp (mma.sync).
WARPGROUP_MULTIPLIES = ("HGMMA", "QGMMA", "IGMMA")
WARP_MULTIPLIES = ("HMMA", "QMMA", "IMMA")
MULTIPLIES = (*WARPGROUP_MULTIPLIES, *WARP_MULTIPLIES)

_GROUP_SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)")
# mma.sync: 16816 is 16 x 8 x 16, 1688 is 16 x 8 x 8, 16832 is 16 x 8 x 32.
_WARP_SHAPE = re.compile(r"\.16(8)(8|16|32|64)")
_DTYPES = {"BF16": "bf16", "E4M3": "e4m3", "E5M2": "e5m2", "TF32": "tf32", "S8": "int8"}


@dataclass(frozen=True)
class Product:
    """One tensor instruction: columns (N) and depth (K) of an m x N x K product; m is 64 rows of a warpgroup.

    mma.sync's 16 rows a warp make 64 of its four warps. starts: it overwrites its accumulator, which begins at
    register `accumulator`. rows_in_registers: its left operand comes from registers, not from shared memory.
    """

    columns: int
    depth: int
    accumulator: int
    starts: bool
    rows_in_registers: bool
    dtype: str
    of_warpgroup: bool

    @property
    def registers(self) -> int:
        """32-bit registers of its accumulator in each thread."""
        rows, threads = (64, 128) if self.of_warpgroup else (16, 32)
        return rows * self.columns // threads


def product_of(instruction: Instruction) -> Product | None:
    """The product that an instruction makes; None for any other, and for one whose operands have another form."""
    if instruction.name not in MULTIPLIES:
        return None
    of_warpgroup = instruction.name in WARPGROUP_MULTIPLIES
    shape = (_GROUP_SHAPE if of_warpgroup else _WARP_SHAPE).search(instruction.opcode)
    operands = [operand.strip() for operand in instruction.operands.split(",")]
    if shape is None or len(operands) < 3 or not re.fullmatch(r"R\d+", operands[0]):
        return None
    sizes = [int(size) for size in shape.groups()]
    return Product(
        columns=sizes[-2],
        depth=sizes[-1],
        accumulator=int(operands[0][1:]),
        starts="RZ" in [re.sub(r"\..*", "", operand) for operand in operands[2:4]],
        rows_in_registers=bool(re.match(r"R\d", operands[1])),
        dtype=_dtype(instruction),
        of_warpgroup=of_warpgroup,
    )


def _dtype(instruction: Instruction) -> str:
    parts = instruction.opcode.split(".")
    found = next((_DTYPES[part] for part in parts if part in _DTYPES), None)
    return found or ("fp16" if instruction.name in ("HGMMA", "HMMA") else "")


@dataclass(frozen=True)
class Step:
    """What a pass multiplies.

    score_columns: columns of scores that a warpgroup makes for 64 of its rows, that is, keys a pass; where it has
    several blocks of 64 rows, their sum. 0 where the products are not those of a forward pass (q k^T, then weights
    times v), so that nothing can be said of 128 keys. head_dim: depth of q k^T. outputs: first registers of the
    accumulators that live through the loop.
    """

    products: tuple[Product, ...]
    score_columns: int
    head_dim: int
    outputs: frozenset[int]


def step_of(path: Sequence[Instruction]) -> Step:
    """Reads a pass: a chain that overwrites its accumulator makes scores, one that only adds makes outputs.

    Where every chain overwrites (the product with v goes to a second accumulator first), those that take their rows
    from registers multiply weights, and the others make scores.
    """
    products = tuple(product for one in path if (product := product_of(one)) is not None)
    started = {product.accumulator for product in products if product.starts}
    outputs = {product.accumulator for product in products} - started
    weighted = [product for product in products if product.accumulator in outputs]
    scores = [product for product in products if product.accumulator in started]
    split_sums = [product for product in scores if product.rows_in_registers]
    if not outputs or (split_sums and len(split_sums) < len(scores)):
        weighted = [*weighted, *split_sums]
        scores = [product for product in scores if not product.rows_in_registers]
    columns, head_dim = _columns(scores, weighted)
    return Step(products, columns, head_dim, frozenset(outputs))


def _columns(scores: Sequence[Product], weighted: Sequence[Product]) -> tuple[int, int]:
    """(columns of scores, head_dim); (0, 0) where scores and weights do not fit each other."""
    columns = sum(product.columns for product in scores if product.starts)
    if not columns or not weighted:
        return 0, 0
    head_dim = sum(product.columns * product.depth for product in scores) / columns
    # Keys of one block of rows: the depth of all products that end up in one accumulator's columns.
    chains = len({product.accumulator for product in weighted} - {one.accumulator for one in weighted if one.starts})
    chains += sum(product.starts for product in weighted)
    keys = sum(product.depth for product in weighted) / chains
    blocks = columns / keys
    if head_dim % 1 or blocks % 1 or blocks < 1:
        return 0, 0
    return columns, int(head_dim)
