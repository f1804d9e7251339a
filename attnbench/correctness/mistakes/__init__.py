"""Known mistakes of attention kernels, each as the answer that a kernel with it would give (`guess` says how)."""
