"""What holds for every test. NOTE: set before torch is imported by anyone, here and in the processes that tests start."""

import os

# Tensors in tests are tiny: a second OpenMP thread only spins, and on a busy machine slows them down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
