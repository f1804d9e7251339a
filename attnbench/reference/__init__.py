"""The problem and its right answer in plain torch: inputs, quantization, the fp64 oracle, the eager reference.

For others: `distributions` and `inputs` (q, k, v), `quantize` and `fp8` (8 bits), `rows` (which are compared), `oracle`
(the answer at them).
"""
