"""GPUs as the driver's management library (NVML) sees them: no torch, no CUDA context.

Without a driver, or without the `pynvml` module, there are no GPUs: nothing here raises for that.
"""
from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterator


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that CUDA would show to this process. `index` is its CUDA ordinal: CUDA_VISIBLE_DEVICES is honoured.

    NOTE: NVML orders by PCI bus; CUDA orders fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID. The two agree where all
    cards are alike, or where the measuring process sets that variable.
    `memory_bytes` is the whole card's, or the slice's where MIG has cut it.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The `pynvml` module, initialized; None where the module or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, or pynvml.NVMLError, which cannot be named when the import failed
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show to this process; () without NVML, driver or card. Looked up once per process."""
    with nvml() as lib:
        if lib is None:
            return ()
        return tuple(_gpu(lib, index, handle) for index, handle in enumerate(visible_handles(lib)))


def visible_handles(lib: Any) -> list[Any]:
    """NVML handles in the order of CUDA_VISIBLE_DEVICES: ordinals, (shortened) GPU UUIDs or MIG UUIDs.

    Like CUDA, stops at the first entry that names nothing (CUDA programming guide, environment variables).
    """
    handles = [lib.nvmlDeviceGetHandleByIndex(index) for index in range(lib.nvmlDeviceGetCount())]
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [_mig_slice(lib, handle) for handle in handles]
    chosen = []
    for entry in (entry.strip() for entry in listed.split(",")):
        handle = _named(lib, handles, entry)
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def ask(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of one NVML query as plain data, or None where this card or driver does not answer it."""
    try:
        answer = query(*arguments)
    except Exception:  # pynvml.NVMLError (not supported, no permission), or a query that this pynvml does not know
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def _named(lib: Any, handles: list[Any], entry: str) -> Any:
    if entry.isdigit():
        return _mig_slice(lib, handles[int(entry)]) if int(entry) < len(handles) else None
    if entry.startswith("MIG-"):
        return ask(lib.nvmlDeviceGetHandleByUUID, entry)
    if entry.startswith("GPU-"):
        matches = [handle for handle in handles if (ask(lib.nvmlDeviceGetUUID, handle) or "").startswith(entry)]
        return _mig_slice(lib, matches[0]) if len(matches) == 1 else None
    return None


def _mig_slice(lib: Any, handle: Any) -> Any:
    """The slice that CUDA uses when MIG has cut the card and none was named: the first. Otherwise the card."""
    modes = ask(lib.nvmlDeviceGetMigMode, handle)
    if not modes or modes[0] != lib.NVML_DEVICE_MIG_ENABLE:
        return handle
    return ask(lib.nvmlDeviceGetMigDeviceHandleByIndex, handle, 0) or handle


def whole_card(lib: Any, handle: Any) -> Any:
    """The card that a MIG slice was cut from; the same handle where it is a card already."""
    return ask(lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle


def _gpu(lib: Any, index: int, handle: Any) -> Gpu:
    card = whole_card(lib, handle)
    return Gpu(
        index=index,
        name=ask(lib.nvmlDeviceGetName, card) or "unknown",
        compute_capability=tuple(ask(lib.nvmlDeviceGetCudaComputeCapability, card) or (0, 0)),
        memory_bytes=int(lib.nvmlDeviceGetMemoryInfo(handle).total),
    )
