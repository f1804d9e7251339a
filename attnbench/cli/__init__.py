"""The command line: one file a verb; what they share stands in `group`, `options` and `terminal`.

For others: `main`, which `attnbench` and `python -m attnbench` call.
"""

from attnbench.cli.verbs import main

__all__ = ["main"]
