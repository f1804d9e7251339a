"""Kernels that want a better figure than they earn, a file a kind, and honest ones that look like them.

Each file is a plugin. Its constants: TRUSTED, what becomes of it where it shares the process with the judge
("incorrect"; "contract"; "no gain": right, at its own cost; "told" at the end of the run; "gains": a false figure,
which only a process of its own prevents); HONEST, further backends, which must pass everywhere; ALONE, where it reaches
other plugins of its process.
"""
