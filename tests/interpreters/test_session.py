"""What `--interpret` says where it cannot interpret."""

from __future__ import annotations

import importlib.util

import pytest

from attnbench.backend import Base
from attnbench.interpreters import session as module
from attnbench.interpreters.backend import OWN_TRAITS, Interpreted
from attnbench.interpreters.session import InterpretError, Session
from attnbench.worker.loading import load


class Plain(Base):
    name = "plain"


def test_without_an_interpreter_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InterpretError, match=r"neither Triton nor jax is installed here; pip install 'attnbench"):
        Session()


def test_another_mode_is_refused_with_the_ones_there_are():
    with pytest.raises(InterpretError, match=r"--interpret=fast: give --interpret, --interpret=hlo or --interpret=tpu"):
        Session("fast")


def test_a_gpu_is_not_what_an_interpreter_runs_on():
    with pytest.raises(InterpretError, match="on the CPU, not on cuda:0; add --device cpu"):
        load((), "auto", "cuda:0", ahead=list)
    assert load((), "", "cuda:0", ahead=list).given == ()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="not run: needs Triton")
def test_another_version_is_refused_unless_asked_for(monkeypatch):
    from attnbench.interpreters.triton import language

    monkeypatch.setattr(language, "TRIED", ("0.1",))
    importlib.import_module("triton")
    backend = Session("auto").backend(Plain())
    assert isinstance(backend, Interpreted)
    assert "was not tried with this interpreter (0.1 were)" in str(backend.unavailable())
    monkeypatch.setenv(language.UNTRIED, "1")
    assert backend.unavailable() is None


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="not run: needs Triton")
def test_plugins_and_kernels_in_triton_go_through_it_and_no_other():
    class Written(Plain):
        name, language = "written", "triton"

    known = {"plain": Plain(), "given": Plain(), "written": Written()}
    backends = Session("auto").backends(known, ["given"])
    assert {name: isinstance(backend, Interpreted) for name, backend in backends.items()} == {
        "plain": False, "given": True, "written": True,
    }  # fmt: skip


def test_what_a_kernel_declares_holds_in_the_interpreter_too():
    class Declared(Base):
        name, scores_int8, partials_16bit, accumulator = "declared", True, True, "two_level"

    backend = Interpreted(Declared(), ())
    assert (backend.scores_int8, backend.partials_16bit, backend.accumulator) == (True, True, "two_level")
    assert (backend.name, backend.interpreted, backend.devices) == ("declared", True, ("cpu",))
    assert {
        name for name in Base.__annotations__ if getattr(backend, name) is not getattr(Declared(), name)
    } <= OWN_TRAITS
