"""What the CPU peers say where a library is absent, in another version, without its parts, or compiled for another CPU;
and of a case, word for word. Libraries are fakes: nothing of theirs is imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

from attnbench.backend import UnsupportedError
from attnbench.backends import builtin, executorch, ggml, openvino, ort
from attnbench.backends.ggml import library
from attnbench.case import Case
from attnbench.machine import facts, libraries
from attnbench.reference.inputs import make_inputs

EXTRA = 'get it with: pip install "attnbench[cpu-peers]"'
TESTED = {"onnxruntime": "1.32.0", "onnx": "1.23.2", "openvino": "2026.4.1", "pywhispercpp": "1.5.1",
          "executorch": "1.5.1", "torch": "2.13.0+cpu"}  # fmt: skip
DISTRIBUTIONS = {"ort_mha": "onnxruntime", "ort_gqa": "onnxruntime", "ort_attention": "onnxruntime",
                 "openvino": "openvino", "ggml": "pywhispercpp", "executorch": "executorch"}  # fmt: skip


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Makes exactly these distributions installed, by version; ggml's libraries are empty files."""

    def make(**versions):
        modules = {"torch", *versions}
        for module in (facts, libraries):
            monkeypatch.setattr(module, "module_installed", lambda name: name in modules)
        for module in (libraries, executorch):
            monkeypatch.setattr(module, "installed_version", versions.get)
        parts = {part: tmp_path / f"libggml-{part}-0123.so.0.13.1" for part in library.PARTS}
        monkeypatch.setattr(ggml, "files", lambda: parts if "pywhispercpp" in versions else {})

    return make


def shaped(**values):
    lengths = {} if "seqlen_q" in values else {"seqlen": 64}
    return Case.make(**{"batch": 1, **lengths, "num_heads": 4, "head_dim": 64, "dtype": "fp16", **values})


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_absent(name, installed):
    installed()
    way = EXTRA
    if name == "executorch":
        way = "get it with: make peers (in a checkout), or pip install --no-deps executorch==1.5.1"
    assert builtin()[name].unavailable() == f"{DISTRIBUTIONS[name]} is not installed; {way}"
    assert builtin()[name].version().endswith("not installed")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_tested_version(name, installed):
    installed(**TESTED)
    backend = builtin()[name]
    assert backend.unavailable() is None
    assert backend.warnings(shaped()) == ()
    assert f"{DISTRIBUTIONS[name]} {TESTED[DISTRIBUTIONS[name]]}" in backend.version()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_another_version_is_told_on_the_record(name, installed):
    distribution = DISTRIBUTIONS[name]
    installed(**{**TESTED, distribution: "9.8.7"})
    backend = builtin()[name]
    assert backend.unavailable() is None
    assert backend.warnings(shaped()) == (
        f"{distribution} 9.8.7 is installed; the backend was tested with {TESTED[distribution]}",
    )


def test_onnxruntime_needs_onnx(installed):
    installed(onnxruntime="1.32.0")
    assert builtin()["ort_mha"].unavailable() == f"onnx is not installed; {EXTRA}"


def test_executorch_is_compiled_for_one_torch(installed):
    installed(**{**TESTED, "torch": "2.14.1"})
    assert builtin()["executorch"].unavailable() == (
        "executorch 1.5.1 is compiled for torch 2.13, and torch 2.14.1 is installed"
    )


def test_executorch_that_does_not_load(monkeypatch, tmp_path):
    (tmp_path / "executorch").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "executorch", raising=False)
    executorch.custom_sdpa.cache_clear()
    with pytest.raises(UnsupportedError, match=f"^its operators do not load: {executorch.OPERATORS}: cannot open"):
        builtin()["executorch"].prepare(shaped(dtype="bf16"), make_inputs(shaped(dtype="bf16")))


def test_ggml_without_its_parts(installed, monkeypatch, tmp_path):
    installed(**TESTED)
    monkeypatch.setattr(ggml, "files", lambda: {"base": tmp_path / "libggml-base-0123.so.0.13.1"})
    assert builtin()["ggml"].unavailable() == (
        "the installed pywhispercpp carries no libggml-cpu; its wheels for Linux do: "
        "pip install --force-reinstall --only-binary :all: pywhispercpp==1.5.1"
    )


def test_ggml_finds_its_parts_beside_the_package(monkeypatch, tmp_path):
    folder = tmp_path / "pywhispercpp.libs"
    folder.mkdir()
    for name in ("libggml-base-12ab.so.0.13.1", "libggml-cpu-34cd.so.0.13.1", "libggml-56ef.so.0.13.1"):
        (folder / name).touch()
    (tmp_path / "pywhispercpp").mkdir()
    (tmp_path / "pywhispercpp" / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pywhispercpp", raising=False)
    assert {part: file.name for part, file in library.files().items()} == {
        "base": "libggml-base-12ab.so.0.13.1", "cpu": "libggml-cpu-34cd.so.0.13.1",
    }  # fmt: skip


class CompiledFor:
    """libggml-cpu as far as it says what it was compiled for."""

    def __init__(self, *extensions):
        for name in library.EXTENSIONS:
            setattr(self, f"ggml_cpu_has_{name}", lambda name=name: int(name in extensions))


@pytest.mark.parametrize(
    ("compiled", "flags", "missing"),
    [
        (("avx2", "f16c"), {"avx2", "f16c", "sse4_2"}, ""),
        (("avx2", "avx512", "avx512_bf16"), {"avx2"}, "avx512, avx512_bf16"),
        (("avx2",), set(), ""),  # a system that does not say
        (("avx512",), {"avx512f"}, ""),
    ],
)
def test_ggml_compiled_for_another_cpu(compiled, flags, missing, monkeypatch):
    monkeypatch.setattr(ggml, "cpu_flags", lambda: frozenset(flags))
    assert ggml.lacking_instructions(CompiledFor(*compiled)) == missing


def test_ggml_compiled_for_another_cpu_is_never_called(monkeypatch):
    monkeypatch.setattr(ggml, "cpu_flags", lambda: frozenset({"avx"}))
    monkeypatch.setattr(ggml, "load", lambda: {"cpu": CompiledFor("avx2"), "base": None})
    with pytest.raises(UnsupportedError, match="compiled for CPUs with avx2, which this one lacks"):
        builtin()["ggml"].prepare(shaped(), make_inputs(shaped()))


def test_what_is_installed_is_what_was_tested():
    """The extra, and what `make peers` adds, pin the versions that the backends name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(one.split("==") for one in project["optional-dependencies"]["cpu-peers"])
    pinned |= dict(re.findall(r"^EXECUTORCH := (\w+)==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = (ort.LIBRARY, ort.LIBRARY.needs, openvino.LIBRARY, ggml.LIBRARY, executorch.LIBRARY)
    assert pinned == {one.distribution: one.tested for one in known}
    assert set(pinned) <= set(facts.DISTRIBUTIONS), "environment.json has them"


UNEQUAL = {"seqlen_q": 40, "seqlen_k": 64, "causal": True}
TOP = {"mask_alignment": "top_left"}
BOTTOM_RIGHT = "its causal mask is bottom-right aligned, not top left, which differs where seqlen_q != seqlen_k"
TOP_LEFT = "its causal mask is top-left aligned, which differs where seqlen_q != seqlen_k"


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("ort_mha", {}, None),
        ("ort_mha", {"dtype": "bf16"}, "it takes fp16 and fp32, not bf16"),
        ("ort_mha", {"num_heads_kv": 2}, "it takes one key/value head a query head"),
        ("ort_mha", UNEQUAL, TOP_LEFT),
        ("ort_mha", {**UNEQUAL, "seqlen_q": 1}, None),
        ("ort_gqa", {"num_heads_kv": 2, "causal": True}, None),
        ("ort_gqa", {"head_dim_v": 32}, "it takes one head_dim for q, k and v"),
        ("ort_gqa", {"head_dim": 20}, "it takes head dims that are multiples of 8, not 20"),
        ("ort_gqa", {"seqlen_q": 65, "seqlen_k": 64}, "each query brings a key: it takes no more queries than keys"),
        ("ort_gqa", {**UNEQUAL, "batch": 2}, "with a cache it takes several queries in a batch of one only"),
        ("ort_gqa", {**UNEQUAL, "batch": 2, "seqlen_q": 1}, None),
        ("ort_attention", {**UNEQUAL, "num_heads_kv": 1}, None),
        ("ort_attention", {"dtype": "e4m3"}, "it takes fp16 and fp32, not e4m3"),
        ("openvino", UNEQUAL, None),
        ("openvino", {"dtype": "e5m2"}, "it takes fp16, bf16 and fp32, not e5m2"),
        ("openvino", {"seqlen_q": 65, "seqlen_k": 64, "causal": True},
         "a row that sees no key is NaN there: causal needs seqlen_q <= seqlen_k"),
        ("ggml", {"seqlen_q": 65, "seqlen_k": 64, "causal": True}, None),
        ("ggml", {"dtype": "e4m3"}, "it takes fp16, bf16 and fp32, not e4m3"),
        ("ort_mha", {**UNEQUAL, **TOP}, None),
        ("ort_gqa", {**UNEQUAL, **TOP}, BOTTOM_RIGHT),
        ("ort_attention", {**UNEQUAL, **TOP}, None),
        ("openvino", {"seqlen_q": 65, "seqlen_k": 64, "causal": True, **TOP}, None),
        ("ggml", {**UNEQUAL, **TOP}, None),
        ("executorch", {"dtype": "bf16", **UNEQUAL, **TOP}, BOTTOM_RIGHT),
        ("executorch", {}, "only its bf16 path is run here, not fp16"),
        ("executorch", {"dtype": "bf16", **UNEQUAL}, None),
        ("executorch", {"dtype": "bf16", "head_dim_v": 32}, "it takes one head_dim for q, k and v"),
        ("executorch", {"dtype": "bf16", "seqlen_q": 65, "seqlen_k": 64, "causal": True},
         "it has no position for more queries than keys"),
    ],
)  # fmt: skip
def test_unsupported(name, values, reason):
    assert builtin()[name].unsupported(shaped(**values)) == reason


def test_looking_imports_nothing():
    program = (
        "import sys; from attnbench.backends import builtin\n"
        "from attnbench.case import Case\n"
        "case = Case.make(batch=1, seqlen=64, num_heads=2, head_dim=64)\n"
        f"for name in {tuple(DISTRIBUTIONS)}:\n"
        "    b = builtin()[name]; b.unavailable(); b.unsupported(case); b.version(); b.warnings(case)\n"
        "loaded = {'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'pywhispercpp', 'executorch'}\n"
        "assert not loaded & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
