"""What a kernel's name says: demangled, and the template arguments or words in it that matter for attention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath

# Values of arguments: numbers, names of types, true and false.
Argument = int | str | bool

# Template parameters of FlashAttention's main loops, by position (hopper/mainloop_fwd_sm90_tma_gmma_ws.hpp,
# hopper/mainloop_fwd_sm80.hpp, hopper/mainloop_bwd_sm90_tma_gmma_ws.hpp; csrc/flash_attn/src/kernel_traits.h). The
# tile is (rows, keys, head_dim).
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "CollectiveMainloopFwdSm90": (
        "stages", "cluster", "tile", "head_dim_v", "dtype", "-", "-", "causal", "local", "softcap", "varlen", "paged",
        "append", "qv", "-", "overlap", "packed_gqa", "split",
    ),
    "CollectiveMainloopFwdSm80": (
        "warps", "stages", "-", "tile", "head_dim_v", "dtype", "-", "-", "causal", "local", "softcap", "varlen",
        "paged", "append", "packed_gqa", "split",
    ),
    "CollectiveMainloopBwdSm90": (
        "stages", "-", "-", "cluster", "tile", "dtype", "-", "-", "causal", "local", "softcap", "varlen",
        "deterministic",
    ),
    "Flash_fwd_kernel_traits": ("head_dim", "tile_m", "tile_n", "warps", "-", "-", "dtype"),
    "Flash_bwd_kernel_traits": ("head_dim", "tile_m", "tile_n", "warps", "-", "-", "-", "-", "-", "-", "dtype"),
}  # fmt: skip
# CollectiveMainloopFwdSm90: where its flags begin and how many there are; sglang's has one more, behind HasQv.
_FIRST_FLAG, _FLAGS, _ADDED_FLAG = 7, 12, 14
# What the kernel's own arguments are, behind FlashAttention-2's traits.
_AFTER_TRAITS = ("dropout", "causal", "local", "alibi")
_TYPES = {
    "bfloat16_t": "bf16", "half_t": "fp16", "float_e4m3_t": "e4m3", "float_e5m2_t": "e5m2", "__nv_bfloat16": "bf16",
    "__half": "fp16", "__nv_fp8_e4m3": "e4m3",
}  # fmt: skip
_WORD_DTYPES = ("fp16", "bf16", "fp32", "e4m3", "e5m2")
# Flags of what a plain attention of full sequences has none of. A name that does not speak of one has it not.
EXTRAS = (
    "local", "softcap", "varlen", "paged", "append", "qv", "packed_gqa", "split", "dropout", "alibi", "deterministic",
)  # fmt: skip
_BACKWARD = re.compile(r"(?i)(?:^|[^a-z])bwd|backward|Bwd")
# A name shortened to what a table holds.
_SHORT = 48


@dataclass(frozen=True)
class Name:
    """A kernel's name. short: for tables. arguments: in attnbench's words where it has any, in the template's order."""

    full: str
    short: str
    arguments: Mapping[str, Argument]


def read_name(symbol: str, origin: str) -> Name:
    """Reads a symbol; where it holds no words about the problem, the name of the file that it came from is read."""
    full = demangle(symbol)
    arguments = dict(_template_arguments(full)) or _words(symbol) or _words(PurePath(origin).stem)
    if _BACKWARD.search(full):
        arguments["direction"] = "bwd"
    return Name(full, _shortened(full), arguments)


def demangle(symbol: str) -> str:
    import cxxfilt

    try:
        return str(cxxfilt.demangle(symbol))
    except cxxfilt.InvalidName:
        return symbol


def _template_arguments(full: str) -> Iterator[tuple[str, Argument]]:
    for template, names in _TEMPLATES.items():
        start = full.find(f"{template}<")
        if start < 0:
            continue
        values, end = _arguments_at(full, start + len(template))
        flags = list(takewhile(lambda text: text in ("true", "false"), values[_FIRST_FLAG:]))
        if template == "CollectiveMainloopFwdSm90" and len(flags) > _FLAGS:
            values = [*values[:_ADDED_FLAG], *values[_ADDED_FLAG + 1 :]]
        named = list(zip(names, values))
        if "traits" in template:
            named += zip(_AFTER_TRAITS, _arguments_at(full, end, after_comma=True)[0])
        for name, text in named:
            yield from _read(name, text)
        return


def _arguments_at(text: str, start: int, after_comma: bool = False) -> tuple[list[str], int]:
    """The comma-separated arguments of the template whose "<" stands at `start`, and the place behind its ">".

    after_comma: those that follow from `start` on in the template around it.
    """
    values, depth, begin = [], 1, start + 1
    for at in range(start + 1, len(text)):
        character = text[at]
        if character in "<(":
            depth += 1
        elif character in ">)":
            depth -= 1
        if depth == 0 or (depth == 1 and character == ","):
            values.append(text[begin:at].strip())
            begin = at + 1
        if depth == 0:
            return [value for value in values if value or not after_comma], at + 1
    return values, len(text)


def _read(name: str, text: str) -> Iterator[tuple[str, Argument]]:
    if name == "-":
        return
    if name in ("tile", "cluster"):
        sizes = [int(size) for size in re.findall(r"\bC<(\d+)>", text)]
        if name == "cluster":
            if sizes[:1] > [1]:
                yield "cluster", sizes[0]
            return
        yield from zip(("tile_m", "tile_n", "head_dim"), sizes)
    elif name == "dtype":
        yield name, _TYPES.get(text.rsplit("::", 1)[-1], text)
    elif text in ("true", "false"):
        yield name, text == "true"
    elif number := re.fullmatch(r"(\d+)[a-z]*", text):
        yield name, int(number[1])


def _words(name: str) -> dict[str, Argument]:
    """dtype, head_dim, causal, schedule of names like fwd_overlap_bf16_d128_causal; {} where no word tells of them."""
    found: dict[str, Argument] = {}
    schedule = []
    for word in re.split(r"[_.-]", name):
        if word in _WORD_DTYPES:
            found["dtype"] = word
        elif head_dim := re.fullmatch(r"(?:d|hd|hdim)(\d+)", word):
            found["head_dim"] = int(head_dim[1])
        elif word not in ("fwd", "bwd", "causal"):
            schedule.append(word)
    if not found:
        return {}
    return {**found, "causal": "causal" in re.split(r"[_.-]", name), "schedule": "_".join(schedule)}


def _shortened(full: str) -> str:
    """The innermost kernel's name of nested templates: FlashAttnFwdSm90 of cutlass::device_kernel<...>."""
    if found := re.search(r"\b(FlashAttn\w+|[Ff]lash_\w+_kernel)<", full):
        return found[1]
    plain = re.sub(r"^(void|auto) ", "", re.sub(r"[<(].*", "", full))
    return plain if len(plain) <= _SHORT else plain[: _SHORT - 3] + "..."
