"""Kernels that others published, judged in the interpreters: `make published` runs them and writes the page."""
