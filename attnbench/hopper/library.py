"""Loads a compiled kernel library through its plain C interface (kernels/include/attnbench/abi.h) by ctypes.

Works without a GPU or a driver: the variant table and the argument check need neither, and a launch returns a status.
The emulated build of a kernel is loaded in the same way and takes CPU tensors. Importing this module imports no torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


ABI_VERSION = 2
DTYPES = {"fp16": 0, "bf16": 1, "e4m3": 2}
FLAGS = {
    "overlap": 1, "pingpong": 2, "warp_specialized": 4, "persistent": 8, "block_descales": 16, "polynomial": 32,
    "multicast": 64,
}  # fmt: skip
ACCUMULATORS = ("fp32", "hopper", "two_level")
# Exported by the emulated build only; tells which device a library's pointers belong to.
EMULATION_SYMBOL = "attnbench_emulation_configure"
REASON_BYTES = 512

# Status codes that callers tell apart; all others only have a text.
OK, WORKSPACE_TOO_SMALL, NO_DRIVER, WRONG_ARCHITECTURE = 0, 11, 12, 13

Strides = c_int64 * 3


class VariantRow(ctypes.Structure):
    """AttnbenchVariant of abi.h."""

    _fields_ = [
        ("name", c_char_p), ("kernel", c_char_p), ("dtype", c_int32), ("head_dim", c_int32), ("causal", c_int32),
        ("tile_m", c_int32), ("tile_n", c_int32), ("stages", c_int32), ("threads", c_int32),
        ("consumer_warpgroups", c_int32), ("shared_memory_bytes", c_int32), ("flags", c_uint32),
        ("accumulator", c_int32),
    ]  # fmt: skip


class ForwardArgs(ctypes.Structure):
    """AttnbenchForwardArgs of abi.h."""

    _fields_ = [
        ("abi_version", c_uint32), ("struct_size", c_uint32), ("variant", c_int32), ("dtype", c_int32),
        ("batch", c_int32), ("seqlen_q", c_int32), ("seqlen_k", c_int32), ("num_heads", c_int32),
        ("num_heads_kv", c_int32), ("head_dim", c_int32), ("head_dim_v", c_int32), ("causal", c_int32),
        ("softmax_scale", c_float), ("descale_block_size", c_int32), ("out_dtype", c_int32), ("p_scale", c_float),
        ("q", c_void_p), ("k", c_void_p), ("v", c_void_p), ("out", c_void_p), ("lse", c_void_p),
        ("q_strides", Strides), ("k_strides", Strides), ("v_strides", Strides), ("out_strides", Strides),
        ("q_descale", c_void_p), ("k_descale", c_void_p), ("v_descale", c_void_p),
        ("q_descale_strides", Strides), ("k_descale_strides", Strides), ("v_descale_strides", Strides),
        ("workspace", c_void_p), ("workspace_bytes", c_uint64), ("stream", c_void_p),
    ]  # fmt: skip


class KernelError(RuntimeError):
    """A library that cannot be used, or a call that it refused; `status` is its code (None before a call)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Variant:
    """One row of a library's variant table; see AttnbenchVariant in abi.h. causal None: takes both."""

    index: int
    schedule: str
    kernel: str
    dtype: str
    head_dim: int
    causal: bool | None
    tile_m: int
    tile_n: int
    stages: int
    threads: int
    consumer_warpgroups: int
    shared_memory_bytes: int
    flags: tuple[str, ...]
    accumulator: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Variant:
        """A variant as JSON keeps it."""
        return cls(**{**row, "flags": tuple(row["flags"])})

    @property
    def key(self) -> str:
        """Readable name, unique within a library: `overlap-bf16-d128-causal`, `fp8-e4m3-d128-blocks-full`."""
        mask = {None: "any", True: "causal", False: "full"}[self.causal]
        blocks = "-blocks" if self.takes_blocks else ""
        return f"{self.schedule}-{self.dtype}-d{self.head_dim}{blocks}-{mask}"

    @property
    def takes_blocks(self) -> bool:
        """Takes e4m3 descales per block of tokens too."""
        return "block_descales" in self.flags

    def answers(self, schedule: str, dtype: str, head_dim: int, causal: bool, blocks: bool = False) -> bool:
        wanted = (schedule, dtype, head_dim)
        same = (self.schedule, self.dtype, self.head_dim) == wanted and self.causal in (None, causal)
        return same and (self.takes_blocks or not blocks)


def has_table(path: Path, prefix: str) -> bool:
    """Whether a library exports a variant table under this prefix. Raises KernelError when it does not load."""
    try:
        return hasattr(ctypes.CDLL(str(path)), f"attnbench_{prefix}describe")
    except OSError as error:
        raise KernelError(f"cannot load {path}: {error}") from None


class CLibrary:
    """A loaded library with the exports that every interface of ours has, each called prefix + name.

    Raises KernelError when the file has not these exports, or speaks another version of its interface.
    """

    PREFIX: str
    VERSION: int
    ROW: type[ctypes.Structure]
    ARGS: type[ctypes.Structure]

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._library = ctypes.CDLL(str(path))
            self._declare()
        except OSError as error:
            raise KernelError(f"cannot load {path}: {error}") from None
        except AttributeError as error:
            raise KernelError(f"{path} is no {self.PREFIX}kernel library: {error}") from None
        version = self._call("abi_version")
        if version != self.VERSION:
            raise KernelError(
                f"{path} speaks ABI version {version}, this program {self.VERSION}; rebuild it: attnbench kernels build"
            )
        rows = (self._call("describe", index).contents for index in range(self._call("variant_count")))
        self.variants = tuple(self._variant(index, row) for index, row in enumerate(rows))

    def _declare(self) -> None:
        args = POINTER(self.ARGS)
        signatures = {
            "abi_version": (c_uint32, ()),
            "variant_count": (c_int32, ()),
            "describe": (POINTER(self.ROW), (c_int32,)),
            "supports": (c_int32, (args, c_char_p, c_size_t)),
            "workspace_bytes": (c_uint64, (args,)),
            "launch": (c_int32, (args,)),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, f"attnbench_{self.PREFIX}{name}")
            function.restype, function.argtypes = result, arguments
        self._library.attnbench_status_string.restype = c_char_p
        self._library.attnbench_status_string.argtypes = (c_int32,)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"attnbench_{self.PREFIX}{name}")(*arguments)

    def _variant(self, index: int, row: Any) -> Any:
        """One row of the table as a Python object."""
        raise NotImplementedError

    @property
    def c_library(self) -> ctypes.CDLL:
        """The library itself, for exports beyond its interface (the emulation's)."""
        return self._library

    @property
    def device_type(self) -> str:
        """Where its tensors live: "cpu" for the emulated build, else "cuda"."""
        return "cpu" if hasattr(self._library, EMULATION_SYMBOL) else "cuda"

    def supports(self, args: ctypes.Structure) -> tuple[int, str]:
        """Status and reason of a call, without a launch; (0, "") when it would be accepted."""
        text = ctypes.create_string_buffer(REASON_BYTES)
        status = self._call("supports", ctypes.byref(args), text, REASON_BYTES)
        return status, text.value.decode(errors="replace")

    def workspace_bytes(self, args: ctypes.Structure) -> int:
        return int(self._call("workspace_bytes", ctypes.byref(args)))

    def launch(self, args: ctypes.Structure) -> None:
        """Enqueues the kernel on args.stream. Raises KernelError with the reason when the library refuses."""
        status = self._call("launch", ctypes.byref(args))
        if status != OK:
            raise self.error(status, args)

    def error(self, status: int, args: ctypes.Structure) -> KernelError:
        """The error that a status of `launch` stands for."""
        refused, reason = self.supports(args)
        text = reason if refused == status else ""
        if status == WORKSPACE_TOO_SMALL:
            text = f"{args.workspace_bytes} bytes given, {self.workspace_bytes(args)} needed"
        name = self._library.attnbench_status_string(status).decode(errors="replace")
        return KernelError(f"{self.path.name}: {name}{': ' + text if text else ''} (status {status})", status)


class KernelLibrary(CLibrary):
    """A loaded library of attention kernels (abi.h)."""

    PREFIX, VERSION, ROW, ARGS = "", ABI_VERSION, VariantRow, ForwardArgs
    variants: tuple[Variant, ...]

    def _variant(self, index: int, row: VariantRow) -> Variant:
        return Variant(
            index=index,
            schedule=row.name.decode(),
            kernel=row.kernel.decode(),
            dtype=next(name for name, code in DTYPES.items() if code == row.dtype),
            head_dim=row.head_dim,
            causal={-1: None, 0: False, 1: True}[row.causal],
            tile_m=row.tile_m,
            tile_n=row.tile_n,
            stages=row.stages,
            threads=row.threads,
            consumer_warpgroups=row.consumer_warpgroups,
            shared_memory_bytes=row.shared_memory_bytes,
            flags=tuple(name for name, bit in FLAGS.items() if row.flags & bit),
            accumulator=ACCUMULATORS[row.accumulator],
        )

    def find(self, schedule: str, dtype: str, head_dim: int, causal: bool, blocks: bool = False) -> Variant | None:
        """The first row that answers, or None; blocks: with descales per block of tokens."""
        return next((row for row in self.variants if row.answers(schedule, dtype, head_dim, causal, blocks)), None)


# The interface of the quantize kernel's library (kernels/include/attnbench/quantize_abi.h): fp16 or bf16 q, k, v to
# e4m3, bit for bit as `quantize.quantize` does it, with v in the layout of the e4m3 attention kernels.
#
# The struct and the library; from tensors to the struct: `quantizer`; the library that is built on this
# machine: `quantizer`. Importing this module imports no torch.

QUANTIZE_ABI_VERSION = 1
SOURCE = "quantize"  # stem of the kernel file
SCALINGS = {"none": 0, "tensor": 1, "head": 2, "block": 3}
# Tokens that are permuted among themselves in the transposed v, and what its rows are padded to.
VALUE_GROUP = 16
# Position within such a group -> token: the order in which an accumulator's registers pack into an e4m3 A operand.
VALUE_ORDER = tuple(position // 4 * 2 + position % 2 + position // 2 % 2 * 8 for position in range(VALUE_GROUP))
MOST_COLUMNS = 256
# As in kernels/quantize.cu: tokens that a CTA works on at a time, and how many such tiles it holds or has under way.
TILE_TOKENS = 128
STAGES = 2


class QuantizeRow(ctypes.Structure):
    """AttnbenchQuantizeVariant of quantize_abi.h."""

    _fields_ = [
        ("kernel", c_char_p), ("amax_kernel", c_char_p), ("dtype", c_int32), ("head_dim", c_int32),
        ("threads", c_int32), ("shared_memory_bytes", c_int32), ("amax_shared_memory_bytes", c_int32),
    ]  # fmt: skip


class QuantizeArgs(ctypes.Structure):
    """AttnbenchQuantizeArgs of quantize_abi.h."""

    _fields_ = [
        ("abi_version", c_uint32), ("struct_size", c_uint32), ("dtype", c_int32), ("batch", c_int32),
        ("seqlen_q", c_int32), ("seqlen_k", c_int32), ("num_heads", c_int32), ("num_heads_kv", c_int32),
        ("head_dim", c_int32), ("scaling", c_int32), ("block_size", c_int32), ("hadamard", c_int32),
        ("signs", c_uint32 * (MOST_COLUMNS // 32)),
        ("q", c_void_p), ("k", c_void_p), ("v", c_void_p),
        ("q_strides", c_int64 * 3), ("k_strides", c_int64 * 3), ("v_strides", c_int64 * 3),
        ("q8", c_void_p), ("k8", c_void_p), ("v8t", c_void_p),
        ("q_descale", c_void_p), ("k_descale", c_void_p), ("v_descale", c_void_p),
        ("workspace", c_void_p), ("workspace_bytes", c_uint64), ("stream", c_void_p),
    ]  # fmt: skip


@dataclass(frozen=True)
class QuantizeVariant:
    """The kernels of one dtype and head_dim; see AttnbenchQuantizeVariant."""

    kernel: str
    amax_kernel: str
    dtype: str
    head_dim: int
    threads: int
    shared_memory_bytes: int
    amax_shared_memory_bytes: int


class QuantizeLibrary(CLibrary):
    """A loaded build of kernels/quantize.cu."""

    PREFIX, VERSION, ROW, ARGS = "quantize_", QUANTIZE_ABI_VERSION, QuantizeRow, QuantizeArgs
    variants: tuple[QuantizeVariant, ...]

    def table(self) -> list[Variant]:
        """Its kernels as rows of a variant table, for inspection: schedule `write`, and `amax` for the pass before it.

        tile_m: tokens of a CTA at a time; tile_n: its columns.
        """
        kernels = [("write", row.kernel, row.shared_memory_bytes, row) for row in self.variants]
        kernels += [("amax", row.amax_kernel, row.amax_shared_memory_bytes, row) for row in self.variants]
        return [
            Variant(index, name, kernel, row.dtype, row.head_dim, None, TILE_TOKENS, row.head_dim, STAGES, row.threads,
                    0, shared_bytes, ("persistent",), "fp32")
            for index, (name, kernel, shared_bytes, row) in enumerate(kernels)
        ]  # fmt: skip

    def _variant(self, index: int, row: QuantizeRow) -> QuantizeVariant:
        return QuantizeVariant(
            kernel=row.kernel.decode(),
            amax_kernel=row.amax_kernel.decode(),
            dtype=next(name for name, code in DTYPES.items() if code == row.dtype),
            head_dim=row.head_dim,
            threads=row.threads,
            shared_memory_bytes=row.shared_memory_bytes,
            amax_shared_memory_bytes=row.amax_shared_memory_bytes,
        )


def transpose_values(v: Tensor) -> Tensor:
    """(batch, seqlen, heads, head_dim) e4m3 as the kernel writes v: (batch, heads, head_dim, seqlen padded to 16),
    the tokens of every 16 in VALUE_ORDER, zeros past the end. For quantized tensors that come from elsewhere."""
    import torch

    batch, seqlen, heads, head_dim = v.shape
    groups = -(-seqlen // VALUE_GROUP)
    padded = torch.zeros((batch, groups * VALUE_GROUP, heads, head_dim), dtype=torch.uint8, device=v.device)
    padded[:, :seqlen] = v.view(torch.uint8)
    grouped = padded.reshape(batch, groups, VALUE_GROUP, heads, head_dim)[:, :, list(VALUE_ORDER)]
    return grouped.permute(0, 3, 4, 1, 2).reshape(batch, heads, head_dim, -1).contiguous().view(v.dtype)


TORCH_DTYPES = {"torch.float16": "fp16", "torch.bfloat16": "bf16", "torch.float8_e4m3fn": "e4m3"}
