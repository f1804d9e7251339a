"""What comes with the code is found in a checkout and in an installation, and the packaging names all of it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

from paths import ROOT

from attnbench import paths
from attnbench.hopper import toolchain

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
# Looked for, and gone without where they are missing.
OPTIONAL = {"cudnn", "fa3_fwd_interface", "flash_attn_interface", "flashinfer", "jax", "landlockpy", "mcp", "onnx",
            "onnxruntime", "openvino", "pyseccomp", "triton"}  # fmt: skip


def test_a_checkout_uses_its_own_folders():
    assert paths.shipped_folder("suites") == ROOT / "suites"
    assert (toolchain.KERNELS, toolchain.BUILD) == (ROOT / "kernels", ROOT / "build" / "kernels")


def test_every_package_and_every_shipped_file_is_in_the_wheel():
    folders = {SETUPTOOLS["package-dir"].get(name, name.replace(".", "/")): name for name in SETUPTOOLS["packages"]}
    with_code = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "attnbench").rglob("*.py")}
    assert with_code <= set(folders)
    for folder in ("suites", "kernels"):
        patterns = SETUPTOOLS["package-data"][folders[folder]]
        packed = {path for pattern in patterns for path in (ROOT / folder).glob(pattern) if path.is_file()}
        assert packed == {path for path in (ROOT / folder).rglob("*") if path.is_file()}, folder


def test_an_installation_finds_them_inside_and_builds_in_the_users_cache(tmp_path):
    """The package as a wheel lays it out, next to a folder of somebody else's of the same name."""
    site = tmp_path / "site"
    for folder, inside in (("attnbench", ""), ("suites", "suites"), ("kernels", "kernels")):
        shutil.copytree(ROOT / folder, site / "attnbench" / inside, ignore=shutil.ignore_patterns("__pycache__"),
                        dirs_exist_ok=True)  # fmt: skip
    (site / "kernels").mkdir()
    code = """
from attnbench.hopper.toolchain import BUILD, KERNELS
from attnbench.suite.load import load_suite, shipped_suites
print(KERNELS, BUILD, len(shipped_suites()), load_suite("quick").name)"""
    environment = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected = [site / "attnbench" / "kernels", tmp_path / "cache" / "attnbench" / "kernels",
                len(list((ROOT / "suites").glob("*.yaml"))), "quick"]  # fmt: skip
    assert done.stdout.split() == [str(word) for word in expected], done.stderr


def test_what_is_imported_is_a_dependency():
    """An environment with more in it, such as the one of tests, would not show what a wheel fails to name."""
    imported = set()
    for path in (ROOT / "attnbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"attnbench"}
    named = {re.split(r"[^\w-]", text)[0].lower() for text in PYPROJECT["project"]["dependencies"]}
    brought = dict(packages_distributions())
    brought["pydantic_core"] = ["pydantic"]  # which pins it to the patch version
    missing = {name for name in others - OPTIONAL if not {one.lower() for one in brought.get(name, ())} & named}
    assert missing == set() and {"torch", "yaml", "pynvml"} <= others
