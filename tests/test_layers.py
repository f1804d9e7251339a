"""The layers, read from the sources: what each package may import, and that reading imports no measuring library."""

import ast
import functools
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

PACKAGE = ROOT / "attnbench"
EVERYTHING = None
# From the ground up; a package may import those named behind it, and nothing else of ours, not even in a function.
MAY_IMPORT = {
    "case": "errors",
    "errors": "",
    "floor": "case errors",
    "paths": "",
    "printable": "",
    "redaction": "",
    "units": "",
    "screen": "",
    "settings": "",
    "messages": "case settings",
    "machine": "",
    "backend": "case machine settings",
    "breakpoints": "",
    "contract": "backend case",
    "failures": "paths",
    "stacks": "paths",
    "markdown": "printable units",
    "plugins": "backend case errors printable redaction",
    "records": "case errors printable redaction units",
    "reference": "backend case",
    "timing": "backend machine paths records settings units",
    "correctness": "backend case contract records reference settings",
    "suite": "case correctness errors floor paths reference settings",
    "machine_code": "errors markdown screen units",
    "hopper": "backend case errors machine machine_code paths reference",
    "backends": "backend case hopper machine machine_code reference settings",
    "behaviour": "backend backends case errors markdown plugins printable screen",
    "interpreters": "backend case errors machine",
    "untrusted": "backend breakpoints case contract errors failures machine messages paths plugins printable stacks "
    "timing",
    "worker": "backend backends breakpoints case contract correctness errors failures interpreters machine messages "
    "paths plugins records reference settings timing untrusted",
    "run": "backends case errors hopper machine messages paths plugins records stacks suite timing",
    "compare": "case floor markdown printable records units",
    "report": "case markdown records units",
    "claims": "case errors markdown records screen suite units",
    "ab": "compare errors messages plugins printable records redaction run suite timing",
    "selftest": "backend backends case contract correctness messages records reference run settings suite worker",
    "judge": "backend backends case compare errors floor messages plugins records report run settings suite units",
    "repro": "case correctness errors records reference",
    "testing": "backend case interpreters plugins records settings suite worker",
    "cli": EVERYTHING,
    "attnbench": "backend case cli records testing",
}
# Where a package may import no more of another than this.
ONLY = {
    ("suite", "correctness"): {"attnbench.correctness.probes"},  # the probes' names
    ("run", "hopper"): {"attnbench.hopper.build"},  # facts of builds
    ("ab", "timing"): {"attnbench.timing.rounds"},  # the order of turns measures nothing
    ("run", "timing"): {"attnbench.timing.rounds"},
}
HEAVY = {
    "torch",
    "triton",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "cudnn",
    "flash_attn_interface",
    "flashinfer",
    "jax",
    "onnx",
    "onnxruntime",
    "openvino",
    "ray",
    "mcp",
}
# Modules about one library, which are themselves imported in functions only, where that library is wanted.
ABOUT = {
    "attnbench.backends.triton.forward": {"triton"},
    "attnbench.backends.cudnn.graph": {"cudnn"},
    "attnbench.hopper.operators": {"torch"},
    **{
        f"attnbench.interpreters.triton.{name}": {"torch"}
        for name in (
            "arithmetic",
            "launch",
            "libdevice",
            "machine",
            "memory",
            "memory_operations",
            "numbers",
            "operations",
            "processes",
            "stand_ins",
        )
    },
    "attnbench.interpreters.pallas.counting": {"jax", "numpy"},
    "attnbench.interpreters.pallas.dots": {"jax"},
    "attnbench.interpreters.pallas.launch": {"jax", "numpy"},
    "attnbench.interpreters.pallas.tpu_memory": {"jax", "numpy"},
    "attnbench.interpreters.pallas.switches": {"jax", "numpy"},
    **{
        f"attnbench.selftest.cheats.{name}": {"torch"}
        for name in (
            "answers_on_disk",
            "child_process",
            "judged_rows_only",
            "lazy_output",
            "other_thread",
            "replaced_judge",
            "slowed_references",
            "thread_count",
        )
    },
    "attnbench.records.frame": {"pandas"},
    "attnbench.report.plots": {"matplotlib"},
    "attnbench.report.fp8": {"matplotlib"},
    "attnbench.report.page": {"matplotlib"},
    "attnbench.report.summary": {"matplotlib"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {path: module_name(path) for path in sorted(PACKAGE.rglob("*.py"))}
PATHS = {module: path for path, module in FILES.items()}
MODULES = set(PATHS)


def package_of(module):
    """The package of ours, or the ground file, that a module belongs to."""
    return module.split(".")[1] if "." in module and module != "attnbench.__main__" else "attnbench"


@functools.cache
def imports(path, lazy=True):
    """Modules that a file imports, whole names; with `lazy` also those that its functions import once called."""
    found = set()

    def visit(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            return
        if (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
            and not lazy
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(inner & MODULES or {node.module})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def eager_imports(module):
    """Modules that importing a module of ours imports by itself; of another one nothing is known."""
    return imports(PATHS[module], lazy=False) if module in PATHS else set()


def ours(modules):
    return {module for module in modules if module.split(".")[0] == "attnbench" and module in MODULES}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_what_lies_below_it(package):
    allowed = MAY_IMPORT[package]
    for path, module in FILES.items():
        if package_of(module) == package and allowed is not EVERYTHING:
            known = {package_of(other) for other in ours(imports(path))} - {package, "attnbench"}
            assert known <= set(allowed.split()), module


@pytest.mark.parametrize(("package", "other"), ONLY)
def test_a_package_imports_only_so_much_of_another(package, other):
    for path, module in FILES.items():
        if package_of(module) == package:
            assert {name for name in ours(imports(path)) if package_of(name) == other} <= ONLY[package, other], module


def test_every_package_has_its_line_and_the_lines_go_up():
    assert {package_of(module) for module in MODULES} == set(MAY_IMPORT)
    below = {"case": {"errors"}}
    for package, allowed in MAY_IMPORT.items():
        names = set((allowed or "").split())
        below[package] = names.union(*(below.get(name, set()) for name in names))
        assert package not in below[package], package


def test_no_two_modules_import_each_other():
    direct = {FILES[path]: ours(imports(path)) - {FILES[path]} for path in FILES}
    for module in MODULES:
        todo, seen = list(direct[module]), set()
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += direct[other]
        assert module not in seen, module


def reachable(start):
    """Everything that importing `start` imports."""
    found, todo = set(), [start]
    while todo:
        new = {name if name in MODULES else name.split(".")[0] for name in eager_imports(todo.pop())} - found
        found |= new
        todo += new
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_importing_a_module_imports_no_heavy_library(module):
    assert reachable(module) & HEAVY <= ABOUT.get(module, set())


def test_a_backend_knows_no_other():
    for path, module in FILES.items():
        if module.startswith("attnbench.backends."):
            own = module.split(".")[2]
            others = {name.split(".")[2] for name in ours(imports(path)) if name.startswith("attnbench.backends.")}
            assert others <= {own}, module


def test_faces_import_nothing():
    """`attnbench list` stays fast: only the registry, the command line and the public interface do more."""
    for path, module in FILES.items():
        if path.name == "__init__.py" and package_of(module) not in ("attnbench", "backends", "cli") and "." in module:
            if module != "attnbench.selftest.bugs":
                assert eager_imports(module) == set(), module
            assert ast.get_docstring(ast.parse(path.read_text())), module


def test_files_have_one_subject():
    """At most 400 lines, 90 % of them at most 310."""
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[-1] <= 400 and lengths[len(lengths) * 9 // 10] <= 310


def test_an_installation_holds_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {module_name(path) for path in FILES if path.name == "__init__.py"}
    assert folders | {"attnbench.suites", "attnbench.kernels"} == set(listed)


def test_the_rules_see_what_is_there():
    """The checks above are no checks of nothing."""
    assert {"attnbench.case", "attnbench.worker.trial", "attnbench.backends.naive"} <= MODULES
    assert "attnbench.records.record" in ours(imports(PACKAGE / "correctness" / "judge.py"))
    assert "torch" in imports(PACKAGE / "correctness" / "judge.py") and "torch" not in reachable(
        "attnbench.correctness.judge"
    )
    assert "pandas" in reachable("attnbench.records.frame")


def test_reading_needs_no_measuring_library():
    code = (
        "import sys; from attnbench.cli import main; import attnbench.report.data, attnbench.compare.comparison, "
        "attnbench.claims.page, "
        f"attnbench.run.runner; sys.exit(bool(set(sys.modules) & {HEAVY - {'matplotlib', 'numpy', 'scipy'}!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
