"""Triton's language on the CPU, by executing what its compiler makes. Others import `language`."""
