"""Kernels in Triton and Pallas, run by an interpreter on the CPU, to be judged where there is no GPU.

Others import `session`.
"""
