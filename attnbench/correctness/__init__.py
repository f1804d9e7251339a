"""Whether a result is right: contract, limits from the reference's own error, probes, determinism, likely causes.

For others: `judge` (limits and verdict on outputs), `contract` (shapes, dtypes, inputs left alone), `probes` and
`relations` (problems with a known answer), `determinism`, `diagnose` (what most likely went wrong), `fp8_sources`.
"""
