"""Two sides of stored runs: which records pair, a verdict for each pair, and a gate's result.

For others: `comparison` (the whole), `baseline` (which runs make a side), `differences` and `verdict` (statistics),
`gate` (exit statuses), `text` and `ci_output` (how it is told).
"""
