"""The emulation tests share one build of each kernel; torch's threads stay out of the way of the worker processes."""
from __future__ import annotations

import torch

torch.set_num_threads(1)
