"""Timed samples, and what the machine did meanwhile.

For others: `measure` (one call), `interleave` (several in turns) and `rounds` (whose turn it is), `timers`, `sampling`
(when to stop), `sentinel` (the machine's own GEMM and copy), `telemetry`, `sensors` and `conditions`.
"""
