"""`python -m attnbench` is the same program as `attnbench`."""

from attnbench.cli import main

main(prog_name="attnbench")
