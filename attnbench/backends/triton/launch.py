"""Launch arguments of `attnbench.backends.triton.forward`: operands and descriptors, descales, tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from attnbench.backend import Inputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


# tl.dot reduces over at least 16 elements, 32 for one-byte types.
SMALLEST_BLOCK_D = {1: 32, 2: 16}
# A TMA descriptor needs every stride but the last, and the base address, to be a multiple of 16 bytes
# (CUDA driver API, cuTensorMapEncodeTiled).
TMA_ALIGNMENT_BYTES = 16
# Accumulator and score elements that a thread can hold in its 255 registers beside addresses and, on the pointer path
# (mma.sync), beside its operands: compiled for sm_90 and sm_80, tiles within these limits do not spill.
MOST_TILE_REGISTERS = {"tma": 160, "pointers": 96}
# Compiler options of every launch. Multiplications and additions fuse into FFMA: Triton's default up to 3.9, which says
# that it will be off from 3.10 on.
COMPILER_OPTIONS = {"enable_fp_fusion": True}
# Of L2, what a section of heads may fill with keys and values; the rest is for queries, outputs and the next section.
L2_SHARE = 0.5


class Tile(NamedTuple):
    """One configuration: query and key tile, warps, and how many key tiles are loaded ahead."""

    block_m: int
    block_n: int
    warps: int
    stages: int


TILES = (
    Tile(128, 128, 8, 2), Tile(128, 128, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 4, 3),
    Tile(128, 64, 8, 2), Tile(64, 128, 4, 2), Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2),
    Tile(64, 128, 8, 2), Tile(64, 64, 8, 2),
)  # fmt: skip


def tma_takes(case: Case) -> bool:
    """Whether TMA can read contiguous (batch, seqlen, heads, dim) operands of this case: strides of whole 16 bytes."""
    width = 1 if case.is_fp8 else 2
    return case.head_dim * width % TMA_ALIGNMENT_BYTES == 0 and case.head_dim_v * width % TMA_ALIGNMENT_BYTES == 0


def arguments(case: Case, inputs: Inputs, tma: bool, l2_bytes: int) -> dict[str, Any]:
    """Every argument of the kernel but out, lse, and the tile."""
    source = inputs.quantized or inputs
    row_scaled = case.is_fp8 and case.scaling in ("token", "block")
    block_d, block_dv = (_block_d(dim, case) for dim in (case.head_dim, case.head_dim_v))
    q, k, v = (tensor.contiguous() for tensor in (source.q, source.k, source.v))
    operands = {**strides("q", q), **strides("k", k), **strides("v", v), "q": q, "k": k, "v": v}
    if tma:
        operands |= {"q": _descriptor(q), "k": _descriptor(k), "v": _value_descriptor(v, case.is_fp8)}
    return {
        **operands, **_descales(case, inputs, row_scaled),
        "batch_heads": case.batch * case.num_heads, "num_heads": case.num_heads, "heads_kv": case.num_heads_kv,
        "seqlen_q": case.seqlen_q, "seqlen_k": case.seqlen_k,
        "section": _section(case, l2_bytes),
        "scale_log2": case.scale * math.log2(math.e), "log2_p_scale": math.log2(case.p_scale) if case.is_fp8 else 0.0,
        "CAUSAL": case.causal, "FP8": case.is_fp8, "ROW_SCALED": row_scaled,
        "GROUP": case.block_size if case.scaling == "block" else 1, "TMA": tma,
        "HEAD_DIM": case.head_dim, "HEAD_DIM_V": case.head_dim_v, "BLOCK_D": block_d, "BLOCK_DV": block_dv,
    }  # fmt: skip


def allocate(case: Case, like: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialized out and lse of the case, on the device and of the dtype of `like`."""
    import torch

    out = like.new_empty((case.batch, case.seqlen_q, case.num_heads, case.head_dim_v))
    lse = like.new_empty((case.batch, case.num_heads, case.seqlen_q), dtype=torch.float32)
    return out, lse


def grid(case: Case) -> Any:
    return lambda meta: (-(-case.seqlen_q // meta["BLOCK_M"]) * case.batch * case.num_heads,)


def strides(name: str, tensor: Tensor) -> dict[str, int]:
    """Strides of a (batch, seqlen, heads, dim) tensor by the kernel's names."""
    batch, seqlen, head, _ = tensor.stride()
    return {f"stride_{name}b": batch, f"stride_{name}h": head, f"stride_{name}s": seqlen}


def tile_arguments(tile: Tile) -> dict[str, int]:
    return {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "SCHEDULE_STAGES": tile.stages}


def set_block_shapes(values: Mapping[str, Any]) -> None:
    """Gives the descriptors among the kernel's arguments the box of the tile that is about to run."""
    if not values["TMA"]:
        return
    keys = [1, 1, values["BLOCK_N"], values["BLOCK_DV"]]
    values["q"].block_shape = [1, 1, values["BLOCK_M"], values["BLOCK_D"]]
    values["k"].block_shape = [1, 1, values["BLOCK_N"], values["BLOCK_D"]]
    values["v"].block_shape = [1, 1, keys[3], keys[2]] if values["FP8"] else keys


def runnable_tiles(values: Mapping[str, Any], shared_bytes: int) -> list[Tile]:
    """The tiles worth trying: operands fit into shared memory, accumulators into registers, rows are mostly real.

    values: the kernel's arguments by name. Never empty: where nothing passes, the smallest tile is left to try.
    """
    width = 1 if values["FP8"] else 2

    def passes(tile: Tile) -> bool:
        staged = tile.stages * tile.block_n * (values["BLOCK_D"] + values["BLOCK_DV"])
        needed_bytes = (tile.block_m * values["BLOCK_D"] + staged) * width
        # Two-level accumulation holds the tile's product beside the accumulator, after the scores have become P.
        beside = max(tile.block_n, values["BLOCK_DV"]) if values["FP8"] else tile.block_n
        elements = tile.block_m * (values["BLOCK_DV"] + beside)
        wasteful = tile.block_m > 64 and values["seqlen_q"] <= 64
        return needed_bytes <= shared_bytes and elements <= tile.warps * 32 * registers and not wasteful

    registers = MOST_TILE_REGISTERS["tma" if values["TMA"] else "pointers"]
    return [tile for tile in TILES if passes(tile)] or [TILES[-1]]


def _block_d(dim: int, case: Case) -> int:
    return max(SMALLEST_BLOCK_D[1 if case.is_fp8 else 2], 1 << (dim - 1).bit_length())


def _descriptor(tensor: Tensor) -> Any:
    """TMA descriptor of the (batch, heads, seqlen, dim) view of a (batch, seqlen, heads, dim) tensor.

    The box is a placeholder until `set_block_shapes`.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    view = tensor.transpose(1, 2)
    return TensorDescriptor(view, list(view.shape), list(view.stride()), [1, 1, 16, 16])


def _value_descriptor(v: Tensor, transposed: bool) -> Any:
    """V's descriptor; transposed: of a (batch, heads, dim, seqlen) copy whose rows are padded to whole 16 bytes."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    if not transposed:
        return _descriptor(v)
    batch, seqlen, heads, dim = v.shape
    padded = -(-seqlen // TMA_ALIGNMENT_BYTES) * TMA_ALIGNMENT_BYTES
    copy = v.new_zeros((batch, heads, dim, padded))
    copy[..., :seqlen] = v.permute(0, 2, 3, 1)
    return TensorDescriptor(copy, [batch, heads, dim, seqlen], list(copy.stride()), [1, 1, 16, 16])


def _descales(case: Case, inputs: Inputs, row_scaled: bool) -> dict[str, Any]:
    """The descales as the kernel reads them: (batch, heads), or (batch, blocks, heads); None where there are none."""
    source = inputs.quantized
    if source is None:
        return {"q_descale": None, "k_descale": None, "v_descale": None, "q_blocks": 0, "k_blocks": 0}
    descales = {"q": source.q_descale, "k": source.k_descale, "v": source.v_descale}
    if not row_scaled:
        heads = {"q": case.num_heads, "k": case.num_heads_kv, "v": case.num_heads_kv}
        descales = {name: value.expand(case.batch, heads[name]) for name, value in descales.items()}
    blocks = {f"{name}_blocks": descales[name].shape[1] if row_scaled else 0 for name in ("q", "k")}
    return {**{f"{name}_descale": value.contiguous() for name, value in descales.items()}, **blocks}


def _section(case: Case, l2_bytes: int) -> int:
    """Query heads whose keys and values fill L2_SHARE of L2: whole groups, at least one."""
    width = 1 if case.is_fp8 else 2
    head_bytes = case.seqlen_k * (case.head_dim + case.head_dim_v) * width
    groups = max(1, int(l2_bytes * L2_SHARE) // head_bytes)
    return min(groups * (case.num_heads // case.num_heads_kv), case.batch * case.num_heads)
