"""The backend `hopper`: what it says without a GPU, and how a case reaches a kernel."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch

from attnbench.backend import Backend
from attnbench.backends.hopper import BACKENDS, Hopper
from attnbench.case import Case
from attnbench.hopper import build as kernel_build
from attnbench.hopper import schedules
from attnbench.hopper.build import Build, PtxasFacts
from attnbench.hopper.inspect import KernelFacts
from attnbench.hopper.library import KernelLibrary
from attnbench.hopper.schedules import DEFAULT_SCHEDULE, SCHEDULES, BuiltKernel
from attnbench.machine.nvml import Gpu


def case(**values) -> Case:
    return Case.make(**{"batch": 1, "seqlen": 32, "num_heads": 2, "head_dim": 64} | values)


def scalar_kernel(library: KernelLibrary) -> BuiltKernel:
    rows = tuple(dataclasses.asdict(variant) for variant in library.variants)
    build = Build("fwd_overlap.cu", library.path.name, "sm_90a", "d1g3st", "s0urc3", "nvcc 1.2.3", (), 1.0, "", rows)
    return BuiltKernel(library.path, build)


@pytest.fixture
def backend(scalar_library, monkeypatch) -> Hopper:
    """The default schedule on scalar attention instead of a Hopper library."""
    kernel = scalar_kernel(scalar_library)
    monkeypatch.setattr(schedules, "built_kernel", lambda schedule: kernel)
    return Hopper(DEFAULT_SCHEDULE)


def test_names():
    assert next(backend.name for backend in BACKENDS) == "hopper"
    assert {backend.name for backend in BACKENDS} >= {"hopper[simple]", "hopper[ws]", "hopper[pingpong]"}
    assert len({backend.name for backend in BACKENDS}) == len(SCHEDULES)
    assert all(isinstance(backend, Backend) for backend in BACKENDS)


def test_unavailable_without_a_hopper_gpu(monkeypatch):
    monkeypatch.setattr("attnbench.machine.nvml.gpus", lambda: ())
    assert "no NVIDIA GPU" in Hopper("ws").unavailable()
    monkeypatch.setattr("attnbench.machine.nvml.gpus", lambda: (Gpu(0, "NVIDIA A100", (8, 0), 1),))
    expected = "it needs compute capability 9.0 (H100, H200); this machine has NVIDIA A100 (8.0)"
    assert Hopper("ws").unavailable() == expected


def test_unavailable_until_built_and_when_stale(monkeypatch, tmp_path):
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    source = kernels / "fwd_ws.cu"
    source.write_text("// a kernel\n")
    library = tmp_path / "fwd_ws.so"
    monkeypatch.setattr("attnbench.machine.nvml.gpus", lambda: (Gpu(0, "NVIDIA H200", (9, 0), 1),))
    monkeypatch.setattr(kernel_build, "KERNELS", kernels)
    monkeypatch.setattr(kernel_build, "library_path", lambda name: library)
    way_out = "build it: attnbench kernels build"
    assert Hopper("ws").unavailable() == f"kernels/fwd_ws.cu is not built; {way_out}"
    assert Hopper("ws").unsupported(case()) == f"kernels/fwd_ws.cu is not built; {way_out}"

    digest = kernel_build.source_digest([source], [kernels / "include"])
    rows = ({"schedule": "ws"},)
    build = Build("fwd_ws.cu", "fwd_ws.so", "sm_90a", "d", digest, "nvcc 1.2.3", (), 1.0, "", rows)
    library.write_bytes(b"")
    library.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(build)))
    assert Hopper("ws").unavailable() is None
    source.write_text("// another kernel\n")
    assert Hopper("ws").unavailable() == f"the library of kernels/fwd_ws.cu is older than its source; {way_out}"


def test_unsupported_comes_from_the_table_and_the_argument_check(backend):
    assert backend.unsupported(case()) is None
    assert backend.unsupported(case(dtype="fp16", causal=True, seqlen_q=7)) is None
    assert backend.unsupported(case(head_dim=96)) == "it has no variant for bf16, head_dim 96, not causal"
    assert backend.unsupported(case(dtype="e4m3")) == "it takes fp16 and bf16, not e4m3"
    assert backend.unsupported(case(head_dim_v=128)) == "it takes one head_dim for q, k and v"
    assert "the longest is 536870912" in backend.unsupported(case(seqlen=2**30))
    assert "more than 2^31 - 1 tiles" in backend.unsupported(case(batch=2**20, num_heads=2**12))


def test_version_names_the_binary(backend):
    assert backend.version() == "fwd_overlap d1g3st (nvcc 1.2.3)"


def test_kernel_facts(backend, monkeypatch, scalar_library):
    read = []

    def inspect(build, path, variant):
        read.append(variant)
        return [KernelFacts("fwd_overlap", "nvcc 1.2.3", "d1g3st", variant, PtxasFacts(168, 0, 0, 0), (), None)]

    monkeypatch.setattr("attnbench.hopper.inspect.inspect_build", inspect)
    row = backend.kernel_facts(case())
    assert row["kernel"] == "scalar_bf16" and row["registers"] == 168 and row["library_digest"] == "d1g3st"
    assert "hgmma" not in row, "what was not read is absent, never zero"
    assert backend.kernel_facts(case(seqlen=64)) == row and read == [scalar_library.variants[1]], "read once"
    assert backend.kernel_facts(case(head_dim=96)) is None
    json.dumps(row)


class FakeStream:
    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle


def test_prepare_returns_the_bare_launch(backend, monkeypatch):
    """On CPU tensors, with torch's current CUDA stream replaced: each call goes to the stream of its time."""
    handles, seen = [11, 22], []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream(handles.pop(0)))
    original = KernelLibrary.launch
    monkeypatch.setattr(KernelLibrary, "launch", lambda self, args: (seen.append(args.stream), original(self, args))[1])
    from attnbench.reference.inputs import make_inputs

    problem = case(causal=True, num_heads=4, num_heads_kv=2)
    inputs = make_inputs(problem)
    call = backend.prepare(problem, inputs)
    first = call()
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(1, 2).float() for tensor in (inputs.q, inputs.k, inputs.v)), is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(first.out.float(), expected.transpose(1, 2), rtol=2e-2, atol=2e-2)
    first.out.fill_(float("nan"))
    second = call()
    assert second.out.data_ptr() == first.out.data_ptr() and not second.out.isnan().any()
    assert seen == [11, 22]


def test_prepare_refuses_another_device(backend, monkeypatch):
    from attnbench.reference.inputs import make_inputs

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    with pytest.raises(ValueError, match="inputs are on cpu, but the current device is 3"):
        backend.prepare(case(), make_inputs(case()))


@pytest.mark.gpu
def test_cuda_graph_capture():
    """On Hopper: a captured launch replays to the same bits as a direct one, also the second time, for which the
    counter that deals out the tiles must be set back. Hence more tiles than multiprocessors."""
    from attnbench.reference.inputs import make_inputs

    ready = [backend for backend in BACKENDS if backend.unavailable() is None]
    if not ready:
        pytest.skip(f"not run: {BACKENDS[0].unavailable()}")
    for backend, head_dim, causal in itertools.product(ready, (64, 128), (False, True)):
        problem = case(dtype="bf16", seqlen=1500, num_heads=32, head_dim=head_dim, causal=causal)
        if backend.unsupported(problem) is not None:
            continue
        call = backend.prepare(problem, make_inputs(problem, "cuda"))
        expected = call().out.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call()
        for replay in ("first", "second"):
            outputs.out.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(outputs.out, expected), f"{backend.name}, {problem.key}, {replay} replay"
