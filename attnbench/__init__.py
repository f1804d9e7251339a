"""Benchmarking and correctness harness for attention kernels.

`attnbench.load(run)` gives a run's records as a pandas DataFrame; `attnbench.check(kernel)` judges a kernel from a
test. For plugins: Backend, Case, Inputs, Outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnbench.backend import Backend, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    import pandas

__version__ = "0.1.0"
__all__ = ["Backend", "Case", "Inputs", "Outputs", "check", "load"]


def load(*runs: Any) -> pandas.DataFrame:
    """One row a record, flat columns; see `attnbench.records.frame.load`."""
    from attnbench.records.frame import load as load_frame  # pandas is slow to import and only needed here

    return load_frame(*runs)


def check(kernel: Any, suite: str = "edges", **options: Any) -> list[Any]:
    """Judges a kernel on a suite; raises AssertionError where it is wrong. See `attnbench.testing.check`."""
    __tracebackhide__ = True
    from attnbench.testing import check as check_kernel  # suites bring pydantic, which is not needed to list backends

    return check_kernel(kernel, suite, **options)
