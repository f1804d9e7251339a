"""What each GPU backend says of this machine and of a case, word for word."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.machine import facts

NAMES = ("cudnn", "fa2", "fa3", "flashinfer", "triton")
NO_GPU = "it needs an NVIDIA GPU, and none is visible (nvidia-smi lists what the driver sees)"
CPU_TORCH = 'the installed torch is a CPU build; get a CUDA one: pip install --force-reinstall "torch>=2.9"'
AMPERE, ADA, HOPPER, BLACKWELL = (8, 0), (8, 9), (9, 0), (10, 0)


@pytest.fixture
def installed(monkeypatch):
    """Makes exactly the named modules importable as far as `module_installed` can tell."""

    def make(*names):
        monkeypatch.setattr(facts, "module_installed", lambda name: name in names)

    return make


@pytest.mark.parametrize("name", NAMES)
def test_protocol(name):
    backend = builtin()[name]
    assert backend.deterministic is True
    assert backend.devices == ("cuda",)
    assert backend.version()


def test_looking_imports_nothing_heavy():
    program = (
        "import sys; from attnbench.backends import builtin\n"
        "from attnbench.case import Case\n"
        "case = Case.make(batch=1, seqlen=64, num_heads=2, head_dim=64)\n"
        f"for name in {NAMES}: b = builtin()[name]; b.unavailable(); b.unsupported(case); b.version()\n"
        "loaded = {'torch', 'triton', 'cudnn', 'numpy', 'flashinfer'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_flex_runs_on_the_cpu_where_there_is_a_compiler(fake_gpu, installed, monkeypatch):
    flex = builtin()["flex"]
    assert flex.devices == ("cpu", "cuda") and flex.by_name_only == ("cpu",)
    installed("torch")
    fake_gpu(None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "g++" else None)
    assert flex.unavailable() is None
    monkeypatch.setenv("CXX", "icpx")
    assert flex.unavailable() == (
        "on the CPU torch compiles it with icpx, which is not here: install g++, or name a compiler in CXX"
    )
    installed()
    assert flex.unavailable() == 'torch is not installed; get it with: pip install "torch>=2.9"'


# What a person would mend first is named first: a GPU, then torch's build, then a package.
EITHER_WAY = pytest.mark.parametrize("modules", [(), ("triton", "flash_attn_interface", "flashinfer")])


@EITHER_WAY
@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu(name, modules, fake_gpu, installed):
    installed(*modules)
    fake_gpu(None)
    assert builtin()[name].unavailable() == NO_GPU


@EITHER_WAY
@pytest.mark.parametrize("name", NAMES)
def test_cpu_build_of_torch(name, modules, fake_gpu, installed, monkeypatch):
    installed(*modules)
    fake_gpu(HOPPER)
    monkeypatch.setattr(facts, "lacks_cuda_torch", lambda: CPU_TORCH)
    assert builtin()[name].unavailable() == CPU_TORCH


def test_every_backend_that_needs_a_gpu_says_so_first(fake_gpu, installed):
    """Whatever is added later too: without a GPU, its first reason is no package."""
    installed()
    fake_gpu(None)
    reasons = {name: backend.unavailable() for name, backend in builtin().items() if "cpu" not in backend.devices}
    assert len(reasons) > len(NAMES)
    assert {name for name, reason in reasons.items() if "NVIDIA GPU" not in reason} == set()


def test_torch_build_is_read_without_importing(tmp_path, monkeypatch):
    """torch/version.py as CPU and CUDA wheels write it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for written, reason in (("None", CPU_TORCH), ("'13.0'", None)):
        text = f"__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = {written}\nhip: Optional[str] = None\n"
        (tmp_path / "torch" / "version.py").write_text(text)
        assert facts.lacks_cuda_torch() == reason


@pytest.mark.parametrize(
    "name, capability, modules, expected",
    [
        ("fa2", (7, 5), (), "it needs compute capability 8.0; Fake GPU has 7.5"),
        ("fa2", HOPPER, (), None),
        ("cudnn", (7, 0), (), "it needs compute capability 8.0; Fake GPU has 7.0"),
        ("cudnn", HOPPER, (), None),
        ("fa3", HOPPER, (),
         "neither flash_attn_interface nor fa3_fwd_interface is installed; one is: pip install tokenspeed-fa3"),
        ("fa3", HOPPER, ("fa3_fwd_interface",), "fa3_fwd_interface needs einops; get it with: pip install einops"),
        ("fa3", HOPPER, ("fa3_fwd_interface", "einops"), None),
        ("fa3", HOPPER, ("flash_attn_interface",), None),
        ("fa3", AMPERE, ("flash_attn_interface",), "it needs compute capability 9.0; Fake GPU has 8.0"),
        ("fa3", BLACKWELL, ("flash_attn_interface",),
         "it is a kernel for compute capability 9.0 alone, and a visible GPU has another"),
        ("flashinfer", HOPPER, (), "FlashInfer is not installed; get it with: pip install flashinfer-python"),
        ("flashinfer", HOPPER, ("flashinfer",), None),
        ("triton", HOPPER, (), 'Triton is not installed; get it with: pip install "triton>=3.6"'),
        ("flex", HOPPER, (), "torch compiles it with Triton: pip install triton"),
        ("flex", HOPPER, ("triton",), None),
    ],
)  # fmt: skip
def test_unavailable(name, capability, modules, expected, fake_gpu, installed):
    fake_gpu(capability)
    installed(*modules)
    assert builtin()[name].unavailable() == expected


@pytest.mark.parametrize(
    "number, expected",
    [
        ("3.5.1", 'it needs Triton 3.6 or later, not 3.5.1; get it with: pip install "triton>=3.6"'),
        ("3.6.0", None),
        ("3.10.0", None),
    ],
)
def test_triton_version(number, expected, fake_gpu, installed, monkeypatch):
    fake_gpu(HOPPER)
    installed("triton")
    monkeypatch.setattr(facts, "package_version", lambda name: number)
    assert builtin()["triton"].unavailable() == expected


E4M3 = {"dtype": "e4m3"}


def shaped(**values):
    return Case.make(**{"batch": 1, "num_heads": 4, "head_dim": 64, "seqlen_q": 128, "seqlen_k": 128, **values})


@pytest.mark.parametrize(
    "name, capability, values, expected",
    [
        ("fa2", HOPPER, {}, None),
        ("fa2", HOPPER, {"causal": True, "seqlen_k": 256}, None),
        ("fa2", HOPPER, {"causal": True, "seqlen_k": 64}, None),
        ("fa2", HOPPER, {"num_heads_kv": 2, "head_dim": 256}, None),
        ("fa2", HOPPER, E4M3, "it takes fp16 and bf16, not e4m3"),
        ("fa2", HOPPER, {"head_dim": 192, "head_dim_v": 128}, "it takes one head_dim for q, k and v, not 192 and 128"),
        ("fa2", HOPPER, {"head_dim": 264}, "it takes head_dim up to 256, not 264"),
        ("fa2", HOPPER, {"head_dim": 60}, "it takes a head_dim that is a multiple of 8, not 60"),
        ("cudnn", HOPPER, {"head_dim": 256, "causal": True}, None),
        ("cudnn", ADA, {"head_dim": 256}, "it takes head dims up to 128 here, not 256"),
        ("cudnn", HOPPER, {"head_dim": 192, "head_dim_v": 128}, None),
        ("cudnn", HOPPER, {"head_dim": 60}, "it takes head dims that are multiples of 8, not 60"),
        ("cudnn", HOPPER, {"causal": True, "seqlen_k": 64}, "its bottom-right causal mask needs seqlen_q <= seqlen_k"),
        ("cudnn", HOPPER, {"seqlen_k": 1}, "torch gives cuDNN no case with a single key"),
        ("cudnn", HOPPER, {"dtype": "e4m3", "scaling": "tensor"},
         "before Blackwell its e4m3 kernel writes e4m3 and masks top-left; an e4m3 case asks for bf16 out"),
        ("cudnn", BLACKWELL, {"dtype": "e4m3", "scaling": "head"},
         "it takes one descale a tensor, not scaling by head"),
        ("cudnn", BLACKWELL, {"dtype": "e4m3", "scaling": "tensor", "head_dim": 256},
         "its e4m3 kernel takes multiples of 16 up to 128, or 192 with 128, not 256 with 256"),
        ("fa3", HOPPER, {"dtype": "fp16"}, "the installed build takes bf16, e4m3, not fp16"),
        ("fa3", HOPPER, {"causal": True, "seqlen_k": 64}, None),
        ("fa3", HOPPER, {"head_dim": 192, "head_dim_v": 128}, None),
        ("fa3", HOPPER, {"head_dim": 128, "head_dim_v": 64}, "it has no kernel for head_dim 128 with head_dim_v 64"),
        ("fa3", HOPPER, {"head_dim": 512}, "it takes head dims up to 256, not 512"),
        ("fa3", HOPPER, {"dtype": "e4m3", "head_dim": 72},
         "it takes head dims that are multiples of 16 for e4m3, not 72"),
        ("fa3", HOPPER, {"dtype": "bf16", "head_dim": 72}, None),
        ("fa3", HOPPER, E4M3, None),
        ("fa3", HOPPER, {"dtype": "e4m3", "scaling": "block"}, "it takes one descale a head, not scaling by block"),
        ("fa3", HOPPER, {"dtype": "e4m3", "num_heads_kv": 2},
         "its q_descale is one a key/value head, and scaling by head has one a query head"),
        ("fa3", HOPPER, {"dtype": "e4m3", "num_heads_kv": 2, "scaling": "tensor"}, None),
        ("fa3", HOPPER, {"dtype": "e4m3", "p_scale": 1}, "it multiplies P by 256, not by 1"),
        ("flex", HOPPER, {"head_dim": 8}, "the compiled kernel takes head dims from 16, not 8"),
        ("flex", HOPPER, {"causal": True, "seqlen_k": 64}, None),
        ("flex", HOPPER, E4M3, "FlexAttention takes no descales, so an e4m3 case has no meaning for it"),
        ("flashinfer", HOPPER, {"head_dim": 96}, "it has no kernel for head_dim 96 with head_dim_v 96"),
        ("flashinfer", HOPPER, {"head_dim": 192, "head_dim_v": 128, "causal": True}, None),
        ("flashinfer", HOPPER, E4M3,
         "the ragged prefill takes one scalar descale a call and P unscaled; only fp16 and bf16 are run here"),
        ("triton", HOPPER, {"head_dim": 24, "causal": True, "seqlen_k": 64}, None),
        ("triton", HOPPER, {"head_dim": 512, "head_dim_v": 64}, "it takes head dims up to 256, not 512"),
        ("triton", AMPERE, E4M3, "e4m3 needs tensor cores of compute capability 8.9 or later"),
        ("triton", ADA, {"dtype": "e4m3", "scaling": "token"}, None),
    ],
)  # fmt: skip
def test_unsupported(name, capability, values, expected, fake_gpu, installed):
    fake_gpu(capability)
    installed("triton", "fa3_fwd_interface", "einops", "flashinfer", "cudnn")
    assert builtin()[name].unsupported(shaped(**values)) == expected


def test_cudnn_names_the_frontend_where_torch_does_not_reach(fake_gpu, installed):
    fake_gpu(HOPPER)
    installed()
    backend = builtin()["cudnn"]
    assert backend.unsupported(shaped(causal=True)) is None
    assert backend.unsupported(shaped(causal=True, seqlen_k=256)) == (
        "torch cannot ask cuDNN for it; nvidia-cudnn-frontend can: pip install --no-deps nvidia-cudnn-frontend"
    )


def test_facts_say_which_way_a_case_goes(fake_gpu):
    fake_gpu(HOPPER)
    cudnn, triton = builtin()["cudnn"], builtin()["triton"]
    assert cudnn.kernel_facts(shaped())["name"] == "aten::_scaled_dot_product_cudnn_attention"
    assert cudnn.kernel_facts(shaped(causal=True, seqlen_k=256))["name"] == "cudnn.pygraph.sdpa"
    assert triton.kernel_facts(shaped())["operands"] == "tma"
    assert triton.kernel_facts(shaped(head_dim=36))["operands"] == "pointers"  # 72 bytes a head
    fake_gpu(AMPERE)
    assert triton.kernel_facts(shaped())["operands"] == "pointers"


def test_fa3_says_which_build_runs(monkeypatch):
    module = ModuleType("flash_attn_interface")
    module.__spec__ = ModuleSpec("flash_attn_interface", loader=None)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    assert builtin()["fa3"].version() == "unknown version (flash_attn_interface)"
    brought = {"tokenspeed-fa3": "3.0.0.post20260810"}
    monkeypatch.setattr(facts, "package_version", lambda name: brought.get(name, "not installed"))
    assert builtin()["fa3"].version() == "tokenspeed-fa3 3.0.0.post20260810 (flash_attn_interface)"
