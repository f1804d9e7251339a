"""Our own Hopper kernels from Python: found, compiled, inspected, loaded and called. The sources are in kernels/.

For others: `toolchain` and `build` (compilers, recipes), `library`, `forward` and `quantizer` (ctypes calls),
`schedules` (what a backend is made of), `operators` (torch), `sass`, `inspect` and `recorded` (machine code).
"""
