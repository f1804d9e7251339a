"""`python -m attnbench` is the same program as `attnbench`."""

import os
import sys

# NOTE: Python puts the current folder first, where any file may have the name of a library's module.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    sys.path.append(sys.path.pop(0))

from attnbench.cli import main

main(prog_name="attnbench")
