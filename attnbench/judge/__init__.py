"""One candidate, one verdict: right or wrong, and faster than what there is or not; for loops and agents.

For others: `question` (what is asked), `runner.judge` (asks it), `judgement` (the answer, its schema, its exit status),
`served` (the same by MCP).
"""
