"""Programs of benchmarks/ as modules: no package holds them."""

import importlib.util
import sys

from paths import ROOT


def benchmark_module(name):
    """benchmarks/NAME.py, which may import its neighbours."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(folder)
    return module
