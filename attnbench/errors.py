"""Which exceptions are a user's mistake: the command line shows them as one line, without a traceback."""

from __future__ import annotations


def user_errors() -> tuple[type[Exception], ...]:
    from attnbench.case import CaseError
    from attnbench.kernel_build import BuildError
    from attnbench.kernel_static import NotComparable
    from attnbench.kernel_toolchain import ToolMissing
    from attnbench.plugins import PluginError
    from attnbench.run import RunError
    from attnbench.store import StoreError
    from attnbench.suite_yaml import SuiteError
    from attnbench.worktree import GitError

    return (BuildError, CaseError, GitError, NotComparable, PluginError, RunError, StoreError, SuiteError, ToolMissing)
