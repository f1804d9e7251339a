"""The measuring process: one case and its backends at a time, checked, then timed.

For others: nothing imports it but `selftest` and `testing`; `attnbench.run` starts `keeper` as a program.
"""
