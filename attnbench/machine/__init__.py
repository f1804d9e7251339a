"""The machine here and now: its CPU, memory, cards and software as facts, and whether it is fit to measure.

For others: `facts` (what a run records), `findings` (what `doctor` shows), `host` (CPU and memory), `nvml` (GPUs).
Imports nothing of attnbench.
"""
