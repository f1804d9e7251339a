"""A GPU that is not there, as far as wrappers of kernels ask for one: each question that was answered is noted.

Tensors lie on the CPU and say that they lie on `cuda:0`; what is to be made there is made on the CPU. Nothing is
launched on a stream, nothing is waited for. Only in the context `gpu`: the judge asks nobody.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

# The card that wrappers are told of, and its limits (CUDA C++ Programming Guide, table of compute capabilities; NVIDIA
# H100 datasheet).
CARD, CAPABILITY = "NVIDIA H100 80GB HBM3", (9, 0)
PROPERTIES = {
    "name": CARD, "major": 9, "minor": 0, "multi_processor_count": 132, "total_memory": 80 << 30, "warp_size": 32,
    "L2_cache_size": 50 << 20, "shared_memory_per_block": 48 << 10, "shared_memory_per_block_optin": 232448,
    "shared_memory_per_multiprocessor": 233472, "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048, "gcnArchName": "",
}  # fmt: skip
ASKED_DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")
IS_CUDA, DEVICE = (getattr(torch.Tensor, name).__get__ for name in ("is_cuda", "device"))


class OnGpu(TorchFunctionMode):
    """Answers where a tensor lies, and makes on the CPU what is to be made on a GPU. asked: what was answered so."""

    def __init__(self, asked: set[str]):
        super().__init__()
        self.asked = asked

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function == IS_CUDA:
            self.asked.add("Tensor.is_cuda")
            return True
        if function == DEVICE:
            self.asked.add("Tensor.device")
            return ASKED_DEVICE
        if function == torch.Tensor.cuda:
            self.asked.add("Tensor.cuda")
            return args[0]
        if function == torch.Tensor.get_device:
            self.asked.add("Tensor.get_device")
            return 0
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self.here(kwargs["device"])}
        if any(isinstance(argument, (torch.device, str)) for argument in args):
            args = tuple(self.here(argument) if is_gpu(argument) else argument for argument in args)
        return function(*args, **kwargs)

    def here(self, device: Any) -> Any:
        if not is_gpu(device):
            return device
        self.asked.add("device cuda")
        return CPU


def is_gpu(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and (device == "cuda" or device.startswith("cuda:"))


class Stream:
    """No stream: everything has happened when a call returns."""

    cuda_stream = 0
    device = ASKED_DEVICE

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _answers(asked: set[str]) -> dict[str, Callable[..., Any]]:
    """What `torch.cuda` says, by the function's name."""

    def noted(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            asked.add(f"torch.cuda.{name}")
            return answer(*args, **kwargs)

        return told

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_name": lambda device=None: CARD,
        "get_device_properties": lambda device=None: types.SimpleNamespace(**PROPERTIES),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "device": lambda device=None: contextlib.nullcontext(),
        "device_of": lambda tensor=None: contextlib.nullcontext(),
        "stream": lambda stream=None: contextlib.nullcontext(),
        "is_bf16_supported": lambda *args, **kwargs: True,
        "is_current_stream_capturing": lambda: False,
    }
    return {name: noted(name, answer) for name, answer in answers.items()}


@contextlib.contextmanager
def gpu(asked: set[str]) -> Iterator[None]:
    """Wrappers that run inside see a GPU. asked: gets the names of what they asked."""
    with contextlib.ExitStack() as stack:
        for name, answer in _answers(asked).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(OnGpu(asked))
        yield


@contextlib.contextmanager
def as_it_is() -> Iterator[None]:
    """Inside of `gpu`: tensors say where they are."""
    with torch._C.DisableTorchFunction():
        yield
