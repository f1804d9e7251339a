// Emulated counterpart of kernels/include/attnbench/device.cuh: decorations, thread coordinates, shared memory.
#pragma once

#include <attnbench/emulation/exports.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

// NOTE: not forced inline as on the device: variants then share their building blocks, which halves the build.
#define ATTNBENCH_DEVICE static inline
#define ATTNBENCH_DEVICE_MEMBER inline

#define ATTNBENCH_KERNEL(threads) void
#define ATTNBENCH_KERNEL_RESIDENT(threads, ctas) void
#define ATTNBENCH_GRID_CONSTANT

// Unrolling is for registers; the host compiler's own choice keeps the emulated build small.
#define ATTNBENCH_UNROLL
#define ATTNBENCH_NO_UNROLL

namespace attnbench {

constexpr bool PTXAS_MERGES_E4M3 = true;

ATTNBENCH_DEVICE int thread_index() { return emulation::self().index % emulation::cta().cta_threads; }
ATTNBENCH_DEVICE int block_index() { return emulation::first_block() + emulation::self().rank; }
ATTNBENCH_DEVICE int grid_size() { return emulation::launch.grid; }
ATTNBENCH_DEVICE uint32_t shared_base() { return emulation::SHARED_BASE + emulation::self().window; }

}  // namespace attnbench
