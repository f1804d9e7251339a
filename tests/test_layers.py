"""The layers of the package, read from its sources: imports point down, and reading needs no measuring library."""

import ast
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "attnbench"
HEAVY = {"torch", "triton", "numpy", "scipy", "pandas", "matplotlib", "cudnn", "flash_attn_interface", "flashinfer"}
# Modules that are about one library and are themselves imported inside functions only, where that library is wanted.
ABOUT = {
    "triton_forward": {"triton"}, "kernel_operator": {"torch"}, "kernel_quantize_operator": {"torch"},
    "cudnn_graph": {"cudnn"}, "frame": {"pandas"}, "plots": {"matplotlib"}, "report": {"matplotlib"}, "plots_accuracy": {"matplotlib"},
    "report_accuracy": {"matplotlib"},
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "attnbench"


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


class Imports(ast.NodeVisitor):
    """What one module imports, at its import and inside functions; imports for type checkers do not count."""

    def __init__(self, path: Path):
        self.eager, self.lazy, self._depth = set(), set(), 0
        self.visit(ast.parse(path.read_text()))

    def _add(self, name: str) -> None:
        (self.lazy if self._depth else self.eager).add(name)

    def visit_If(self, node):
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_Lambda = visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node):
        for alias in node.names:
            self._add(own(alias.name))

    def visit_ImportFrom(self, node):
        assert node.level == 0, "imports name the whole path"
        for alias in node.names:
            inner = own(f"{node.module}.{alias.name}")
            self._add(inner if inner in FILES else own(node.module))


def own(name: str) -> str:
    """`attnbench.case` is `case`; `torch.nn` is `torch`."""
    if name == "attnbench":
        return name
    return name.removeprefix("attnbench.") if name.startswith("attnbench.") else name.partition(".")[0]


IMPORTS = {name: Imports(path) for name, path in FILES.items()}


def reachable(start: str, lazy: bool) -> set[str]:
    """Everything that `start` imports, directly or not; with `lazy`, also what functions import once called."""
    found, todo = set(), [start]
    while todo:
        imports = IMPORTS.get(todo.pop())
        if imports is not None:
            new = (imports.eager | (imports.lazy if lazy else set())) - found
            found |= new
            todo += new
    return found


def test_the_sources_were_found():
    assert {"case", "run", "worker", "judge", "backends", "backends.naive", "attnbench", "__main__"} <= set(FILES)
    assert IMPORTS["record"].eager >= {"json", "case"} and "torch" in IMPORTS["judge"].lazy


def test_no_two_modules_import_each_other():
    circles = set()
    for name in FILES:
        for imported in (IMPORTS[name].eager | IMPORTS[name].lazy) & set(FILES):
            if name in reachable(imported, lazy=True) and name != imported:
                circles.add(tuple(sorted((name, imported))))
    assert circles == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_importing_a_module_imports_no_heavy_library(name):
    assert reachable(name, lazy=False) & HEAVY <= ABOUT.get(name, set())


# What lies above each of these: they must not know it, not even inside a function.
COMMAND_LINE = {"cli", "command_group", "options", "run_command", "listing", "progress", "gate", "ab_command",
                "ab_verdict", "ab_runs", "completion", "__main__"}  # fmt: skip
COMPARING = {"compare", "usable_runs", "case_records", "sides", "comparable", "quality", "pairing"}
TELLING = {"ruling", "compare_text", "compare_table", "junit", "github_actions"}  # what a comparison is told with
READERS = {"report", "plots", "frame", "summary", "repro", "result", *COMPARING, *TELLING}
MEASURING = {"worker", "trial", "judge", "error_rules", "rounding", "reference", "timing", "timers", "sampling",
             "conditions", "telemetry", "telemetry_process", "gauge", "cpu_sensor", "nvml_sensor", "inputs", "quantize", "lab", "contract",
             "examine", "bench", "prepared", "prep_timing", "rotation", "interleave", "together", "holding"}  # fmt: skip
JUDGING = {"judge", "reference"}
REPORT_PARTS = {name for name in FILES if name.startswith("report_")}
RUNNING = {"run", "crew", "replication", "worker_process", "ab", "ab_journal", "side", "worktree"}
ABOVE = {
    "case": set(FILES) - {"case"},
    "measurement": set(FILES) - {"measurement"},
    "record": set(FILES) - {"case", "record", "measurement"},
    "store": set(FILES) - {"case", "record", "measurement", "store"},
    "backend": set(FILES) - {"backend", "case"},
    "metrics": COMMAND_LINE | READERS | MEASURING | RUNNING | {"store", "suite"},
    "stats": COMMAND_LINE | READERS | MEASURING | RUNNING | {"store", "suite"},
    "differences": COMMAND_LINE | READERS | MEASURING | RUNNING | {"verdict", "stored_baseline", "store", "suite"},
    "stored_baseline": COMMAND_LINE | READERS | MEASURING | RUNNING | {"verdict", "store", "suite"},
    "verdict": COMMAND_LINE | READERS | MEASURING | RUNNING | {"store", "suite"},
    "inputs": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "timing", "store", "suite"},
    "reference": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "timing", "store", "suite"},
    "rounding": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "timing", "store", "suite"},
    "error_rules": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "timing", "store", "suite"},
    "repro_judge": set(FILES) - {"repro_judge"},
    "judge": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "timing", "store", "suite"},
    "sampling": COMMAND_LINE | READERS | RUNNING | JUDGING | {"worker", "trial", "timing", "store", "suite"},
    "timing": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "reference", "store", "suite"},
    "telemetry": COMMAND_LINE | READERS | RUNNING | JUDGING | {"worker", "trial", "timing", "store", "suite"},
    "clock_events": set(FILES) - {"clock_events"},
    "rounds": set(FILES) - {"rounds"},
    "interleave": COMMAND_LINE | READERS | RUNNING | JUDGING | {"worker", "trial", "bench", "store", "suite"},
    "prep_timing": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "together", "prepared", "store", "suite"},
    "prepared": COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "together", "store", "suite"},
    "trial": COMMAND_LINE | READERS | RUNNING | {"worker", "together", "store", "suite"},
    "together": COMMAND_LINE | READERS | RUNNING | {"worker", "store", "suite"},
    "worker": COMMAND_LINE | READERS | RUNNING | {"store", "suite"},
    "report": COMMAND_LINE | MEASURING | RUNNING | {"repro"},
    "report_data": COMMAND_LINE | MEASURING | RUNNING | (READERS - {"result"}) | (REPORT_PARTS - {"report_data"}),
    "report_markdown": set(FILES) - {"report_markdown", "units"},
    "report_races": COMMAND_LINE | MEASURING | RUNNING | {"report", "plots", "report_glance", "report_summary"},
    "report_paper": COMMAND_LINE | MEASURING | RUNNING | {"report", "plots", "report_accuracy", "report_summary"},
    "report_glance": COMMAND_LINE | MEASURING | RUNNING | {"report", "plots", "report_summary"},
    "frame": COMMAND_LINE | MEASURING | RUNNING | {"report", "plots"},
    "holding": COMMAND_LINE | READERS | RUNNING | {"worker", "store", "suite"},
    "run": COMMAND_LINE | READERS | {"ab", "side", "worktree"},
    "worktree": set(FILES) - {"worktree"},
    "side": COMMAND_LINE | READERS | {"run", "ab", "store"},
    "ab": COMMAND_LINE | READERS | {"run", "store"},
    "ab_journal": COMMAND_LINE | READERS | MEASURING | (RUNNING - {"ab_journal"}) | {"suite"},
    "pairing": COMMAND_LINE | (READERS - {"pairing"}) | MEASURING | RUNNING | {"store", "suite"},
    "quality": COMMAND_LINE | (READERS - {"quality", "result"}) | MEASURING | RUNNING | {"store", "suite"},
    "compare": COMMAND_LINE | (READERS - COMPARING - {"result"}) | MEASURING | RUNNING | {"suite"},
    "ruling": COMMAND_LINE | MEASURING | RUNNING | (TELLING - {"ruling"}) | {"suite", "report"},
    "junit": COMMAND_LINE | MEASURING | RUNNING | {"suite", "report"},
    "github_actions": COMMAND_LINE | MEASURING | RUNNING | {"suite", "report"},
}  # fmt: skip


@pytest.mark.parametrize("name", ABOVE)
def test_imports_point_down(name):
    assert reachable(name, lazy=True) & (ABOVE[name] - {name, "errors", "settings"}) & set(FILES) == set()


@pytest.mark.parametrize("name", ["run", "ab", "side", "ab_command"])
def test_the_parent_of_a_run_measures_nothing(name):
    assert reachable(name, lazy=False) & MEASURING == set()
    assert (IMPORTS[name].eager | IMPORTS[name].lazy) & MEASURING == set()


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("backends.")))
def test_a_backend_knows_no_other_and_nothing_of_the_harness(name):
    known = IMPORTS[name].eager | IMPORTS[name].lazy
    assert {other for other in known if other.startswith("backends")} == set()
    harness = COMMAND_LINE | READERS | RUNNING | {"worker", "trial", "judge", "timing", "store", "suite"}
    assert known & harness == set()
