"""The parent of a measurement: sends jobs to a worker, survives whatever becomes of it, and stores the records.

For others: `runner` (a suite to a run directory), `supervisor` (one worker at a time), `process` (a worker's pipes).
Never imports what measures.
"""
