"""A YAML file to jobs: every mistake in it is one line with file and line number. Reading half: no torch.

For others: `load` (files to suites), `suite` (a loaded suite, its jobs and its text), `source` (YAML with line
numbers), `schema` (the format), `groups` (axes, checked), `axes` (those of the command line), `expansion` (axes crossed
into cases), `values` (what a field may hold).
"""
