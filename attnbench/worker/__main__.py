"""`python -m attnbench.worker` is the measuring process; `attnbench.run.process` starts it."""

from attnbench.worker.worker import main

main()
