"""What a run leaves behind, and how it is read again: facts are stored raw, every figure is computed on reading.

For others: `record` and `measurement` (what is stored), `store` (run directories), `environment` (peaks, sentinels),
`result` (a record beside its run), `stats`, `metrics`, `frame` (a pandas DataFrame).
"""
