"""Benchmarking and correctness harness for attention kernels.

`attnbench.load(run)` gives a run's records as a pandas DataFrame; `attnbench.check(kernel)` judges a kernel from a
test, `attnbench.cases(suite)` makes it one test a case. For plugins: Backend, Case, Inputs, Outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnbench.backend import Backend, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas

    from attnbench.testing import SuiteCase

__version__ = "0.1.0"
__all__ = ["Backend", "Case", "Inputs", "Outputs", "cases", "check", "load"]


def load(*runs: Any, samples: bool = False) -> pandas.DataFrame:
    """One row a record, or a raw sample, flat columns; see `attnbench.records.frame.load`."""
    from attnbench.records.frame import load as load_frame  # pandas is slow to import and only needed here

    return load_frame(*runs, samples=samples)


def cases(suite: str = "edges", *, only: Mapping[str, Any] | None = None) -> list[SuiteCase]:
    """The cases of a suite for pytest's parametrize, named by their keys. See `attnbench.testing.cases`."""
    from attnbench.testing import cases as cases_of  # as below

    return cases_of(suite, only=only)


def check(kernel: Any, suite: Any = "edges", **options: Any) -> list[Any]:
    """Judges a kernel on a suite or one case; AssertionError where it is wrong. See `attnbench.testing.check`."""
    __tracebackhide__ = True
    from attnbench.testing import check as check_kernel  # suites bring pydantic, which is not needed to list backends

    return check_kernel(kernel, suite, **options)
