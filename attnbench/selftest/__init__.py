"""Whether the checks can be trusted: known bugs are planted into right kernels, and each has to be caught.

For others: `runner`. `forward` is a tiled kernel of its own, on purpose not the reference; `bugs` holds what is
planted.
"""
