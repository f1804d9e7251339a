"""Machine code of GPU kernels, ours or anybody's: read from files, and what its main loops need of each pipe."""
