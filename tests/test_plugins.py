"""Plugins: what is no plugin is refused in one line, and what one does at import cannot take the run with it."""

import importlib.metadata
import sys

import pytest
import torch
from paths import ROOT

from attnbench import Inputs
from attnbench.backend import ContractError
from attnbench.case import Case
from attnbench.plugins import PluginError, announced_names, check_spec, installed_names, load, names_unknown, split_spec

FUNCTIONS = ROOT / "tests" / "plugins_bad" / "functions.py"
CASE = Case.make(batch=1, num_heads=2, head_dim=8, seqlen=4, dtype="fp16")
BACKEND = """
class Mine:
    name, deterministic = "mine", True
    def version(self): return "1"
    def unavailable(self): return None
    def unsupported(self, case): return None
    def prepare(self, case, inputs): return lambda: None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a plugin file; returns its path. Imports leave no trace."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_function_becomes_a_backend_of_its_name():
    (backend,) = load([f"{FUNCTIONS}:right"]).values()
    assert (backend.name, backend.version(), backend.deterministic) == ("right", "functions.py:right", True)
    assert backend.unavailable() is None and backend.unsupported(CASE) is None
    assert "descales" in backend.unsupported(Case.make(**{**CASE.to_dict(), "dtype": "e4m3"}))
    tensor = torch.randn(1, 4, 2, 8, dtype=torch.float16)
    outputs = backend.prepare(CASE, Inputs(tensor, tensor, tensor))()
    assert outputs.out.shape == tensor.shape and outputs.lse.shape == (1, 2, 4)


def test_a_function_gets_what_the_contract_says(module):
    path = module("def seen(q, k, v, *, causal, softmax_scale):\n    return q, k, v, causal, softmax_scale\n")
    tensor = torch.zeros(1, 4, 2, 8)
    (backend,) = load([f"{path}:seen"]).values()
    with pytest.raises(ContractError, match="seen returned 5 values; return out, or"):
        backend.prepare(CASE, Inputs(tensor, tensor, tensor))()
    text = "def seen(q, k, v, *, causal, softmax_scale):\n    return {'causal': causal, 'scale': softmax_scale}\n"
    path = module(text, "a.py")
    (backend,) = load([f"{path}:seen"]).values()
    outputs = backend.prepare(CASE, Inputs(tensor, tensor, tensor))()
    assert outputs.out == {"causal": False, "scale": 8**-0.5} and outputs.lse is None


def test_a_module_by_its_import_name(module, monkeypatch):
    path = module("def mine(q, k, v, *, causal, softmax_scale):\n    return q\n", "importable_kernel.py")
    monkeypatch.syspath_prepend(str(path.parent))
    assert list(load(["importable_kernel:mine"])) == ["mine"]


def test_a_file_with_backends_and_its_neighbour(module):
    module(BACKEND, "neighbour_of_mine.py")
    path = module("from neighbour_of_mine import Mine\nBACKENDS = (Mine(),)\n")
    assert list(load([str(path)])) == ["mine"]


def test_a_file_named_like_a_library_takes_nobodys_place(module):
    path = module("def mine(q, k, v, *, causal, softmax_scale):\n    return q\n", "torch.py")
    assert list(load([f"{path}:mine"])) == ["mine"]
    assert sys.modules["torch"] is torch


def test_a_file_is_imported_once(module):
    path = module(
        "import pathlib\npathlib.Path(__file__ + '.log').open('a').write('x')\n"
        "def one(q, k, v, *, causal, softmax_scale): ...\ndef two(q, k, v, *, causal, softmax_scale): ...\n"
    )
    assert list(load([f"{path}:one", f"{path}:two"])) == ["one", "two"]
    assert path.with_name("mine.py.log").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("def f(:\n", "f", r"does not import: SyntaxError: .* \(mine.py:1\)"),
        ("x = 1\nimport nonexistent_thing\n", "f", r"does not import: ModuleNotFoundError: .* \(mine.py:2\)"),
        ("\n\nraise SystemExit(4)\n", "f", r"does not import: SystemExit: 4 \(mine.py:3\)"),
        ("raise ValueError('one\\ntwo')\n", "f", r"does not import: ValueError: one \(mine.py:1\)"),
        ("import json\njson.loads('{')\n", "f", r"does not import: json.decoder.JSONDecodeError: .* \(mine.py:2\)"),
        ("raise KeyboardInterrupt\n", "f", r"does not import: KeyboardInterrupt \(mine.py:1\)"),
        ("", "f", 'it has no "f"'),
        ("f = 3\n", "f", '"f" is no function but int'),
        ("def f(q, k): ...\n", "f", r"must take \(q, k, v, \*, causal, softmax_scale\): too many positional"),
        ("def f(q, k, v): ...\n", "f", "must take .*: got an unexpected keyword argument 'causal'"),
        ("x = 1\n", "", r'a module needs BACKENDS = \(backend, ...\); for one function say ".*mine.py:function"'),
        ("BACKENDS = ()\n", "", "a module needs BACKENDS"),
        ("BACKENDS = 3\n", "", "a module needs BACKENDS"),
        ("BACKENDS = (3,)\n", "", "int in BACKENDS lacks name, deterministic, version"),
        (BACKEND + "BACKENDS = (Mine,)\n", "", r"Mine in BACKENDS is a class; put Mine\(\) there"),
        (BACKEND + "Mine.name = 3\nBACKENDS = (Mine(),)\n", "", "Mine.name must be text, not 3"),
        (BACKEND + "del Mine.prepare\nBACKENDS = (Mine(),)\n", "", "Mine in BACKENDS lacks prepare"),
        (BACKEND + "BACKENDS = (Mine(), Mine())\n", "", 'two plugin backends are named "mine"; rename one'),
        (BACKEND + "Mine.name = 'naive'\nBACKENDS = (Mine(),)\n", "", 'is named "naive" like a built-in one; rename'),
    ],
)
def test_what_is_no_plugin_says_so_in_one_line(module, text, function, message):
    path = module(text)
    with pytest.raises(PluginError, match=message) as caught:
        load([f"{path}:{function}" if function else str(path)], taken=("naive",))
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_has_no_place_to_name(module):
    with pytest.raises(PluginError, match="ModuleNotFoundError: No module named 'no_such_module'$"):
        load(["no_such_module:f"])
    path = module("import importlib\nimportlib.import_module('no_such_module')\n")
    with pytest.raises(PluginError, match=r"No module named 'no_such_module' \(mine.py:2\)$"):
        load([f"{path}:f"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.py", "no file nowhere.py"),
        ("nowhere.py:f", "no file nowhere.py"),
        ("kernels", "give file.py:function, module:function, or file.py"),
    ],
)
def test_specs_are_checked_without_an_import(spec, message):
    with pytest.raises(PluginError, match=message):
        check_spec(spec)
    check_spec("some.module:function")
    check_spec(f"{FUNCTIONS}:right")


def test_names_are_announced_without_an_import(monkeypatch):
    assert announced_names(["a/b.py:f", "m.n:g", "c.py"]) == ["f", "g", "c.py"]
    assert not names_unknown(["a/b.py:f", "m.n:g"]) and names_unknown(["a/b.py:f", "c.py"])


@pytest.mark.parametrize(
    ("spec", "place", "function"),
    [
        ("a/b.py:f", "a/b.py", "f"),
        ("b.py", "b.py", ""),
        ("m.n:f", "m.n", "f"),
        ("/a:b/c.py", "/a:b/c.py", ""),
        ("/a:b/c.py:f", "/a:b/c.py", "f"),
    ],
)
def test_a_spec_has_two_parts(spec, place, function):
    assert split_spec(spec) == (place, function)


@pytest.fixture
def entry_point(module, monkeypatch):
    """An installed package whose entry point is the module `installed_kernels`."""

    def install(text):
        path = module(text, "installed_kernels.py")
        monkeypatch.syspath_prepend(str(path.parent))
        point = importlib.metadata.EntryPoint("their_kernels", "installed_kernels", "attnbench.backends")
        monkeypatch.setattr("attnbench.plugins.entry_points", lambda group: [point])

    return install


def test_installed_backends_are_known(entry_point):
    entry_point(BACKEND + "BACKENDS = (Mine(),)\n")
    assert list(load([])) == ["mine"]
    assert (announced_names([]), installed_names()) == ([], ["their_kernels"]) and names_unknown([])


def test_an_installed_plugin_that_does_not_import_is_named(entry_point):
    entry_point("1 / 0\n")
    with pytest.raises(PluginError, match='plugin "installed_kernels" does not import: ZeroDivisionError'):
        load([])
