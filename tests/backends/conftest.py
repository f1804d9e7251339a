"""GPU tests say that they did not run, full ones that `make test-full` runs them; fake GPUs."""

from __future__ import annotations

import pytest

from attnbench.machine import facts
from attnbench.machine.nvml import Gpu


@pytest.fixture(autouse=True)
def left_out(request):
    if request.node.get_closest_marker("gpu") and not facts.gpus():
        pytest.skip("not run: needs an NVIDIA GPU")
    if request.node.get_closest_marker("full") and "full" not in request.config.getoption("markexpr"):
        pytest.skip("not run: one of the full tests (make test-full)")


@pytest.fixture
def fake_gpu(monkeypatch):
    """Makes one GPU of the given compute capability visible, or none; and torch a CUDA build or as it is."""

    def make(capability: tuple[int, int] | None, cuda_torch: bool = True) -> None:
        found = () if capability is None else (Gpu(0, "Fake GPU", capability, 80 * 2**30),)
        monkeypatch.setattr(facts, "gpus", lambda: found)
        monkeypatch.setattr(facts, "gpus", lambda: found)
        if cuda_torch:
            monkeypatch.setattr(facts, "lacks_cuda_torch", lambda: None)

    return make
