"""Run directories to a page with figures: a pure function of what was stored. Measures nothing.

For others: `page` (the whole). A section is a file: `summary`, `speed`, `errors`, `failures`, `telemetry`, `fp8`,
`emulated`, `interpreted`; `data` has what they share, `plots` and `panels` draw.
"""
