"""A standalone script that shows one record again, with a judge of its own.

For others: `script`. `judge` shares nothing with `attnbench.correctness`, on purpose: its source is copied out.
"""
