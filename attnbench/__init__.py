"""Benchmarking and correctness harness for attention kernels."""
